"""Two sets of images against each other in a terminal: the report's arithmetic without the page."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from pixeval.errors import InputError, unknown_name
from pixeval.records import people_first
from pixeval.runs import Run
from reports.arms import Arm, name_votes, pairings, step_of
from reports.ballots import vote_results
from reports.build import catalogue, finite
from reports.figures import number, percent
from reports.tables import index_scores, score_changes


@dataclass(frozen=True)
class CompareConfig:
    """Two sets of images of the same prompts and seeds."""

    run_a: Positional[str]
    """The baseline: a run, or ``run:label`` for one of its labels (the last checkpoint by default)."""
    run_b: Positional[str]
    """The candidate, written the same way. Every change is candidate minus baseline."""


def compare(config: CompareConfig) -> dict[str, Any]:
    """Paired change per metric and win rates per question, with intervals, as JSON-ready values.

    Raises:
        InputError: a folder is no run, a label is unknown, or both name the same images.
    """
    (run_a, label_a), (run_b, label_b) = (split(given) for given in (config.run_a, config.run_b))
    first, second = _arm(run_a, label_a, 0), _arm(run_b, label_b, 1)
    if {s.id for s in first.samples} == {s.id for s in second.samples}:
        raise InputError(f"{config.run_a} and {config.run_b} are the same images; name two labels, as in RUN:base.")
    if first.name == second.name:
        first = Arm(f"{run_a.name}/{first.name}", 0, first.label, first.step, first.samples)
        second = Arm(f"{run_b.name}/{second.name}", 1, second.label, second.step, second.samples)
    scored = index_scores([*run_b.scores(), *run_a.scores()])
    changes, left_out = score_changes(first, second, scored, catalogue(), {})
    votes = {vote.id: vote for run in (run_a, run_b) for vote in run.votes()}
    named = name_votes(sorted(people_first(list(votes.values())), key=lambda v: (v.answered_at, v.id)), [first, second])
    results = vote_results(named, [(first.name, second.name)])
    found: dict[str, Any] = finite(
        {
            "baseline": first.name,
            "candidate": second.name,
            "pairs": len(pairings(first, second)),
            "simulated": any(r.rates.simulated for r in results),
            "votes": [asdict(r) for r in results],
            "changes": [asdict(c) for c in changes],
            "incomparable": [asdict(i) for i in left_out],
        }
    )
    return found


def split(given: str) -> tuple[Run, str | None]:
    """``run:label`` to both; a path that exists is taken whole, colons included.

    Raises:
        InputError: no run there.
    """
    path, colon, label = given.rpartition(":")
    if Path(given).exists() or not colon:
        return Run.open(Path(given)), None
    return Run.open(Path(path)), label


def _arm(run: Run, label: str | None, source: int) -> Arm:
    samples = run.samples()
    labels = list(dict.fromkeys(sample.label for sample in samples))
    if not labels:
        raise InputError(f"{run.path} holds no samples; make some with 'pixeval generate'.")
    if label is None:
        steps = [(step, name) for name in labels if (step := step_of(name)) is not None]
        if len(labels) > 1 and not steps:
            raise InputError(f"{run.path} holds several labels ({', '.join(labels)}); write {run.path}:LABEL.")
        label = max(steps)[1] if steps else labels[0]
    if label not in labels:
        raise unknown_name("label", label, labels)
    return Arm(label, source, label, step_of(label), tuple(s for s in samples if s.label == label))


def render(result: dict[str, Any]) -> str:
    """The result as text for a terminal."""
    lines = [f"{result['candidate']} against {result['baseline']}, {result['pairs']} pairs of images"]
    if result["simulated"]:
        lines.append("The votes come from simulated annotators.")
    if result["votes"]:
        rows = [["question", "win", "tie", "loss", "net", "95 %", "votes", "prompts", "people", "Holm p", ""]]
        rows += [_vote_row(v) for v in result["votes"]]
        lines += ["", *_aligned(rows)]
    else:
        lines += ["", "No votes between the two; collect some with 'pixeval label'."]
    if result["changes"]:
        rows = [["metric", "", "baseline", "candidate", "change", "95 %", "pairs", "prompts", "Holm p", ""]]
        rows += [_change_row(c) for c in result["changes"]]
        lines += ["", *_aligned(rows)]
    else:
        lines += ["", "No metric to compare; score both runs with 'pixeval score'."]
    lines += [f"{item['metric']} is left out: {item['reason']}" for item in result["incomparable"]]
    return "\n".join(lines)


def _vote_row(vote: dict[str, Any]) -> list[str]:
    rates, net = vote["rates"], vote["rates"]["net"]
    shares = [percent(votes / rates["n"]) for votes in (rates["win"], rates["tie"] + rates["both_bad"], rates["loss"])]
    bounds = "–" if net["low"] is None else f"{percent(net['low'], True)} to {percent(net['high'], True)}"
    counts = [str(rates[k]) for k in ("n", "prompts", "annotators")]
    end = [number(vote["p_holm"]), vote["verdict"]]
    return [vote["question"], *shares, percent(net["value"], True), bounds, *counts, *end]


def _change_row(change: dict[str, Any]) -> list[str]:
    delta = change["change"]
    bounds = "–" if delta["low"] is None else f"{number(delta['low'], True)} to {number(delta['high'], True)}"
    arrow = {True: "↑", False: "↓", None: "?"}[change["higher_is_better"]]
    means = [number(change[k]) for k in ("baseline_mean", "candidate_mean")]
    counts = [str(delta["n"]), str(change["prompts"])]
    end = [number(change["p_holm"]), change["verdict"]]
    return [change["metric"], arrow, *means, number(delta["value"], True), bounds, *counts, *end]


def _aligned(rows: list[list[str]]) -> list[str]:
    """Columns of equal width, the first and the last flush left, numbers flush right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    last = len(widths) - 1
    lines = []
    for row in rows:
        cells = [row[i].ljust(w) if i in (0, last) else row[i].rjust(w) for i, w in enumerate(widths)]
        lines.append("  ".join(cells).rstrip())
    return lines
