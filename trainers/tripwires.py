"""What stops a run, and what it is warned of.

The loss stops a run when it is no number or explodes. Warnings have names and are looked for at every checkpoint,
from records alone: the log, the held-out probes, and the scores of the evaluation, each against its beginning. They
are functions of these records, so that a run that was killed and continued is warned of the same.
"""

import json
import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from safetensors.torch import save_file
from torch import Tensor

from pixeval.catalog import find, select
from pixeval.records import Sample
from pixeval.runs import Run
from pixeval.stats.bootstrap import paired_interval
from pixeval.stats.interval import Interval
from trainers.keeping import checkpoint_label
from trainers.training_log import Line

EXPLODED = 10.0
"""A loss is suspect above this multiple of the median of earlier ones (of their magnitudes)."""
PATIENCE = 10
"""Suspect steps in a row that stop a run: with small batches, single losses differ by orders of magnitude."""
HISTORY, LEAST_HISTORY = 200, 20
"""Steps that the median is taken of, at most and at least."""
WINDOW, LEAST_WINDOW = 50, 10
"""Steps at the beginning and at the end of the log that are compared, at most and at least."""
SURE = 4.0
"""Standard errors by which a logged value must have risen; it is looked at again at every checkpoint."""
LEAST_PROMPTS = 8
"""Prompts that an evaluation needs for an interval to be believed."""
COLLAPSED = 0.9
"""Share of the base model's diversity that is not worth a warning; with many images, intervals get very narrow."""
DOUBT = 0.01
"""Chance of a false alarm per checkpoint, shared by all flaw metrics."""
STOPPED = ("stopped.json", "stopped_batch.safetensors")
"""What a run that stopped by itself leaves."""
HELD_OUT = "reward_held_out"
"""Metric of a reward model that is not trained against (``evaluation.weights``)."""


class Warned(NamedTuple):
    """A named warning."""

    name: str
    text: str
    values: dict[str, Any]


class LossGuard:
    """Watches the loss from step to step.

    Args:
        explosions: also stop at an exploding loss, not only at one that is no number.
        scaled: gradients are scaled (fp16), so that single steps with infinite gradients are part of the method.
    """

    def __init__(self, explosions: bool = True, scaled: bool = False) -> None:
        self.explosions, self.scaled = explosions, scaled
        self.streak = 0
        self._magnitudes: deque[float] = deque(maxlen=HISTORY)

    def add(self, line: Mapping[str, float]) -> str | None:
        """Why to stop after this line of the log; None for not at all."""
        loss, norm = line["loss"], line.get("gradient_norm", 0.0)
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(norm) and not self.scaled:
            return f"the norm of the gradients is {norm}"
        usual = statistics.median(self._magnitudes) if len(self._magnitudes) >= LEAST_HISTORY else math.inf
        if self.explosions and usual > 0 and loss > EXPLODED * usual:
            self.streak += 1
        else:
            self.streak = 0
            self._magnitudes.append(abs(loss))
        if self.streak < PATIENCE:
            return None
        return f"the loss was above {EXPLODED:g} times its median of {usual:.4g} for {PATIENCE} steps, now {loss:.4g}"


def write_stopped(run: Run, step: int, reason: str, line: Line, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``stopped.json``: why and at which step a run stopped, and the rows of the data that it then read.

    What is a tensor in a row goes to ``stopped_batch.safetensors``: ``3/image_mean`` is the mean of the latent of row 3
    of ``rows``, counted from 0.
    """
    terms = {k: v if math.isfinite(v) else str(v) for k, v in line.items()}
    latents = {f"{i}/{k}": v.clone() for i, row in enumerate(rows) for k, v in row.items() if isinstance(v, Tensor)}
    if latents:
        save_file(latents, run.path / STOPPED[1])
    named = [{k: v for k, v in row.items() if not isinstance(v, Tensor)} for row in rows]
    told = {"step": step, "reason": reason, "seed": run.info["config"]["seed"], "line": terms, "rows": named}
    (run.path / STOPPED[0]).write_text(json.dumps(told, indent=1) + "\n")


def forget_stopped(run: Run) -> None:
    """Remove what :func:`write_stopped` wrote, when the run goes on."""
    for name in STOPPED:
        (run.path / name).unlink(missing_ok=True)


def warnings_at(run: Run, step: int, lines: Sequence[Line], probes: Sequence[Line]) -> list[Warned]:
    """What there is to be warned of after ``step``.

    Args:
        run: its scores are looked at, those of ``base`` and of this step's checkpoint.
        step: of the checkpoint.
        lines: of ``metrics.jsonl`` up to ``step``.
        probes: of ``probes.jsonl`` up to ``step``.
    """
    metric = run.info["config"].get("reward", {}).get("metric")
    return [
        *winner_errors_rising(lines, probes),
        *reward_hacking(run, checkpoint_label(step), lines, metric),
        *diversity_collapse(run, checkpoint_label(step)),
    ]


def winner_errors_rising(lines: Sequence[Line], probes: Sequence[Line]) -> list[Warned]:
    """The model gets worse at the preferred images, whatever the margin does (Diffusion-SDPO, arXiv 2511.03317).

    By the held-out probes where there are any (paired by row, 99 % interval), else by the log.
    """
    found: list[Warned] = []
    for name in ("latent_winner_error", "pixel_winner_error"):
        if len(probes) > 1 and name in probes[0].get("rows", {}):
            rise = paired_interval(probes[-1]["rows"][name], probes[0]["rows"][name], confidence=1 - DOUBT)
            rising = rise.n >= LEAST_PROMPTS and rise.low is not None and rise.low > 0
            start, value, where = probes[0][name], rise.value, "on held-out pairs"
        else:
            values = [line[name] for line in lines if name in line]
            value, rising = rise_of(values)
            start, where = (statistics.fmean(values[:WINDOW]) if values else 0.0), "in the log"
        if rising:
            text = f"{name} has risen by {value:.3g} from {start:.3g} {where}: preferred images are getting less likely"
            found.append(Warned("winner_error_rising", text, {"term": name, "rise": value, "start": start}))
    return found


def reward_hacking(run: Run, label: str, lines: Sequence[Line], metric: str | None) -> list[Warned]:
    """What is trained on improves (a reward, or the margin of preferences) and flaws or a held-out reward get worse.

    They are compared with those of ``base``, image by image for the same prompt and seed.
    """
    sign = 1 if metric is None or find(metric).higher_is_better else -1
    rewards = {"reward": [sign * line["reward"] for line in lines if line.get("rewarded", 0) > 0]}
    for name in ("latent_margin", "pixel_margin"):
        rewards[name] = [line[name] for line in lines if name in line]
    risen = [name for name, values in rewards.items() if rise_of(values)[1]]
    worse = worsened(run, "base", label, {metric}) if risen else {}
    if not worse:
        return []
    told = ", ".join(f"{name} by {change.value:+.3g}" for name, change in worse.items())
    what = "flaws" if HELD_OUT not in worse else "flaws and the held-out reward" if len(worse) > 1 else "judgements"
    text = f"{' and '.join(risen)} rises while {what} of {label} get worse against base: {told}"
    values = {name: [change.value, change.low, change.high] for name, change in worse.items()}
    return [Warned("reward_hacking", text, {"rewards": risen, "flaws": values})]


def diversity_collapse(run: Run, label: str) -> list[Warned]:
    """The evaluation's images are less diverse than those of ``base``, beyond both intervals of the Vendi score."""
    scores = {score.label: score for score in run.set_scores() if score.metric == "vendi_score"}
    base, now = scores.get("base"), scores.get(label)
    if base is None or now is None or base.value is None or now.value is None:
        return []
    if base.low is None or now.high is None or now.high >= base.low or now.value > COLLAPSED * base.value:
        return []
    text = (
        f"the images of {label} amount to {now.value:.3g} different ones [{now.low:.3g}, {now.high:.3g}], "
        f"those of base to {base.value:.3g} [{base.low:.3g}, {base.high:.3g}]"
    )
    return [Warned("diversity_collapse", text, {"vendi_score": [now.value, now.low, now.high], "base": base.value})]


def worsened(run: Run, base: str, label: str, left_out: set[str | None]) -> dict[str, Interval]:
    """Flaw metrics and the held-out reward, where worse under ``label`` than under ``base``, with the paired change.

    The interval is clustered by prompt and its confidence corrected for the number of metrics (Bonferroni).
    """
    sides = [_by_question(run.samples(), which) for which in (base, label)]
    asked = sorted(set(sides[0]) & set(sides[1]))
    prompts = [prompt for prompt, _ in asked]
    names = [s.name for s in select(["flaws", HELD_OUT]) if s.name not in left_out]
    if len(set(prompts)) < LEAST_PROMPTS:
        return {}
    values = {(s.metric, s.sample_id): s.value for s in run.scores() if s.value is not None and s.metric in names}
    judged = {name for name, _ in values}
    found: dict[str, Interval] = {}
    for name in (name for name in names if name in judged):
        both = [question for question in asked if all((name, side[question].id) in values for side in sides)]
        if len({prompt for prompt, _ in both}) < LEAST_PROMPTS:
            continue
        before, after = ([values[name, side[question].id] for question in both] for side in sides)
        change = paired_interval(
            [v or 0.0 for v in after],
            [v or 0.0 for v in before],
            confidence=1 - DOUBT / len(judged),
            clusters=[prompt for prompt, _ in both],
        )
        bound = change.high if find(name).higher_is_better else change.low
        if bound is not None and (bound < 0 if find(name).higher_is_better else bound > 0):
            found[name] = change
    return found


def rise_of(values: Sequence[float]) -> tuple[float, bool]:
    """Mean of the last window less that of the first, and whether it is beyond chance; (0, False) for too few."""
    size = min(WINDOW, len(values) // 2)
    if size < LEAST_WINDOW:
        return 0.0, False
    first, last = values[:size], values[-size:]
    rise = statistics.fmean(last) - statistics.fmean(first)
    error = math.sqrt((statistics.variance(first) + statistics.variance(last)) / size)
    return rise, rise > SURE * error


def _by_question(samples: Sequence[Sample], label: str) -> dict[tuple[str, int], Sample]:
    own = [s for s in samples if s.label == label and s.prompt_id is not None and s.seed is not None]
    return {(s.prompt_id or "", s.seed or 0): s for s in own}
