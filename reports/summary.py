"""``summary.json``: what a dashboard or a script wants of a report, in a format that is documented and kept stable.

The schema is ``summary.schema.json`` beside this file; ``report.json`` holds everything else, without such a promise.
"""

from collections.abc import Mapping
from typing import Any

from pixeval import __version__
from pixeval.stats.interval import Interval
from reports.report import Comparison, Report
from reports.tables import ScoreChange
from reports.vote_test import VoteTest

FORMAT = 1


def summary_of(report: Report, built: str) -> dict[str, Any]:
    """The summary as JSON-ready values; every interval has ``value``, ``low``, ``high`` (95 %) and ``n``."""
    return {
        "format": FORMAT,
        "pixeval": __version__,
        "built": built,
        "run": report.title,
        "baseline": report.baseline,
        "candidate": report.candidate,
        "verdict": {
            "sentence": report.summary.headline if report.summary else None,
            "metrics": report.summary.subline if report.summary else None,
            "caveats": list(report.summary.caveats) if report.summary else [],
            "simulated_votes": report.simulated_votes,
        },
        "comparisons": [_comparison(comparison) for comparison in report.comparisons],
        "sets": [
            {
                "arm": row.arm,
                "metric": row.metric,
                "higher_is_better": row.higher_is_better,
                **_bounds(row.value, row.low, row.high, row.n),
                "reference": row.reference,
            }
            for row in report.sets
        ],
        "arms": [
            {
                "name": arm.name,
                "images": arm.images,
                "prompts": arm.prompts,
                "seeds": list(arm.seeds),
                "generators": list(arm.generators),
            }
            for arm in report.arms
        ],
        "protocol": _protocol(report),
        "tripwires": [
            {"run": log.source, "name": warning.name, "steps": list(warning.steps), "text": warning.text}
            for log in report.training
            for warning in log.warnings
        ],
        "command": list(report.command),
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return {
        "baseline": comparison.baseline,
        "candidate": comparison.candidate,
        "votes": [_votes(result) for result in comparison.votes],
        "metrics": [_metric(change) for change in comparison.changes],
    }


def _votes(result: VoteTest) -> dict[str, Any]:
    rates = result.rates
    return {
        "question": result.question,
        "net": _interval(rates.net),
        "naive_net": _interval(rates.naive_net),
        "win": rates.win,
        "tie": rates.tie,
        "both_bad": rates.both_bad,
        "loss": rates.loss,
        "prompts": rates.prompts,
        "annotators": rates.annotators,
        "p": rates.p_value,
        "p_holm": result.p_holm,
        "verdict": result.verdict,
        "firm": result.firm,
        "alpha": _interval(result.agreement.alpha) if result.agreement else None,
        "simulated": rates.simulated,
    }


def _metric(change: ScoreChange) -> dict[str, Any]:
    return {
        "metric": change.metric,
        "family": change.family,
        "higher_is_better": change.higher_is_better,
        "baseline": change.baseline_mean,
        "candidate": change.candidate_mean,
        "change": _interval(change.change),
        "effect": _interval(change.effect) if change.effect else None,
        "prompts": change.prompts,
        "p": change.p_value,
        "p_holm": change.p_holm,
        "verdict": change.verdict,
        "firm": change.firm,
    }


def _protocol(report: Report) -> Mapping[str, Any] | None:
    held = report.protocol
    if held is None:
        return None
    return {
        "votes": held.votes,
        "annotators": held.annotators,
        "prompts": held.prompts,
        "pairs": held.pairs,
        "first": held.first,
        "last": held.last,
        "guidelines": list(held.guidelines),
        "left": _interval(held.left) if held.left else None,
        "median_seconds": held.seconds[1],
        "excluded": {
            "superseded": held.superseded,
            "training": held.training,
            "gold": held.gold,
            "repeats": held.repeats,
            "skipped": held.skipped,
            "rejected": held.rejected,
        },
    }


def _interval(interval: Interval) -> dict[str, Any]:
    return _bounds(interval.value, interval.low, interval.high, interval.n)


def _bounds(value: float | None, low: float | None, high: float | None, n: int) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n": n}
