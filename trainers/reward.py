"""Any differentiable metric of the catalogue, or any differentiable Scorer, as a reward on decoded predictions.

As ReFL (ImageReward, arXiv 2304.05977) and AlignProp (arXiv 2310.03739) do, a metric is maximised by gradient through
the frozen decoder; here from the one-step prediction of a noised training image, without sampling. A reward that is
maximised for long is hacked: watch metrics that are not trained on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pixeval.catalog import find, load
from pixeval.encoders import ClipEncoder
from pixeval.errors import InputError
from pixeval.metric_spec import MetricSpec
from pixeval.protocols import Scorer, SelectiveScorer
from pixeval.runs import Run
from trainers.errors import Answer, Argument, Band, Noised, decoder_argument, no_error, rows_within, spread_rows
from trainers.latent_diffusion import LatentDiffusion

REWARDING = ("quality", "flaws", "alignment")
SCORER = "reward_scorer"
"""Where ``run.json`` has the fingerprint of a reward that was given as an object."""


@dataclass(frozen=True)
class RewardConfig:
    """A metric to improve beside the objective."""

    metric: str | None = None
    """A differentiable metric of one image (see ``pixeval list metrics``); none for no reward."""
    weight: float = 0.1
    """Of the reward in the loss; metrics have scales of their own, so look at the metric's range."""
    argument: Argument = "x0"
    """x0: the decoded clean prediction, as ReFL and AlignProp; noisy: the decoded re-noised latent of (2)."""
    band: Band = (0.0, 0.25)
    """Noise levels at which images are rewarded; by default the last quarter of sampling, as in ReFL."""
    weights: Path | None = None
    """Weights of a metric that has none bundled."""


def rewarding(config: RewardConfig) -> MetricSpec:
    """The metric that the settings name; loads nothing.

    Raises:
        InputError: it is unknown, not differentiable, compares images with others, or needs something else.
    """
    spec = find(config.metric or "")
    if not spec.differentiable or spec.family not in REWARDING:
        raise InputError(f"{spec.name} cannot be a reward: it must be differentiable and judge single images")
    lacking = sorted({"questions", "objects", "general_clip"} & set(spec.needs))
    if lacking:
        raise InputError(f"{spec.name} cannot be a reward: it needs {lacking[0]}, which training has not")
    _check_weight(config)
    return spec


def check_scorer(scorer: Scorer | None, config: RewardConfig, out: Path) -> None:
    """See that a Scorer is the only reward, and that of the run in ``out`` where there is one.

    Raises:
        InputError: it is not.
    """
    if scorer is not None:
        if config.metric is not None:
            raise InputError(f"there is one reward: give reward.metric {config.metric} or a Scorer, not both")
        _check_weight(config)
    if (out / "metrics.jsonl").exists() and (out / "run.json").exists():
        known, given = Run.open(out).info.get(SCORER), None if scorer is None else scorer.fingerprint
        if known != given:
            raise InputError(
                f"{out} holds a run with the reward {known or 'of its settings'}, not {given or 'without a Scorer'}. "
                "Give another folder, or the same Scorer to continue it."
            )


def named_reward(config: RewardConfig, model: LatentDiffusion, captions: Sequence[str], side: int) -> "Reward | None":
    """The reward that the settings name; None where they name none.

    Args:
        config: the settings.
        model: whose predictions are rewarded.
        captions: the distinct prompts of the data.
        side: of the training images in pixels, the shorter one.

    Raises:
        InputError: as :func:`rewarding`; or the images are too small, or the weights not usable.
    """
    if config.metric is None:
        return None
    spec = rewarding(config)
    if side < spec.min_side:
        raise InputError(f"{spec.name} needs images of at least {spec.min_side} pixels, training has {side}")
    device = str(model.device)
    encoder = ClipEncoder.load().to(device) if "clip" in spec.needs else None
    weights = None if config.weights is None else str(config.weights)
    scorer = load(spec, encoder=encoder, captions=captions, weights=weights)
    if "weights" in spec.needs:
        scorer = scorer.to(device)
    return Reward(config, scorer, spec.higher_is_better, spec.needs_prompt)


class Reward:
    """The reward of a batch: values per image for the log, and their weighted negative for the loss.

    Args:
        config: weight, argument and band.
        scorer: differentiable, on the model's device. A :class:`~pixeval.protocols.SelectiveScorer` is asked which
            prompts it can take; '' is a caption that was dropped.
        higher_is_better: its direction.
        needs_prompt: it means nothing for the empty prompt.
    """

    def __init__(
        self, config: RewardConfig, scorer: Scorer, higher_is_better: bool = True, needs_prompt: bool = False
    ) -> None:
        self.config = config
        self._scorer, self._needs_prompt = scorer, needs_prompt
        self._sign = 1.0 if higher_is_better else -1.0

    def values(
        self, model: LatentDiffusion, answer: Answer, noised: Noised, prompts: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Values of the metric for the first rows of a batch, (n,), 0 where there is none; and where there is one.

        Args:
            prompts: of the n first rows; empty where the prompt was dropped.
        """
        n = len(prompts)
        inside = rows_within(model, noised.t[:n], self.config.band)
        rows = [row for row in (range(n) if inside is None else inside.tolist()) if self._can_score(prompts[row])]
        scored = torch.zeros(n, dtype=torch.bool, device=noised.t.device)
        if not rows:
            return no_error(answer, n), scored
        index = torch.tensor(rows, device=noised.t.device)
        images = model.decode(decoder_argument(answer, noised, self.config.argument)[index]) / 2 + 0.5
        # Beyond black and white there is nothing to see and no gradient.
        found = self._score(images.clamp(0, 1), [prompts[row] for row in rows])
        finite = found.isfinite()
        if not bool(finite.all()):
            index, rows = index[finite], [row for row, kept in zip(rows, finite.tolist(), strict=True) if kept]
            if not rows:
                return no_error(answer, n), scored
            found = self._score(images[finite].clamp(0, 1), [prompts[row] for row in rows])
        scored[index] = True
        return spread_rows(found, index, n), scored

    def loss(self, values: Tensor) -> Tensor:
        """Weighted, negative where higher is better; a scalar, the mean over the batch."""
        return -self._sign * self.config.weight * values.mean()

    def _score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            return self._scorer(images, prompts).float()

    def _can_score(self, prompt: str) -> bool:
        if self._needs_prompt and not prompt:  # dropped for classifier-free guidance
            return False
        return not isinstance(self._scorer, SelectiveScorer) or self._scorer.hindrance(prompt) is None


def _check_weight(config: RewardConfig) -> None:
    if not config.weight > 0:
        raise InputError(f"reward.weight must be positive, got {config.weight}; the direction is known")
