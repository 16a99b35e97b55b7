"""What a training found: the calibration of every question, and the figures that ``reward.json`` keeps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixeval.records import QUESTIONS
from reward_models.calibrate import LEAST, fit_calibration, folded
from reward_models.inputs import Rows, Table
from reward_models.judgements import Judgement
from reward_models.model import HEADS, OVERALL, Calibration, RewardModel, prompt_mark
from reward_models.planted import TAG


@dataclass(frozen=True)
class Trained:
    """What a model was trained on and judged by."""

    judgements: Sequence[Judgement]
    """All of people, in the order of the rows of the table."""
    learned: Sequence[Judgement]
    """Those of them that the heads that are kept learned from."""
    planted: Sequence[Judgement]
    """The bundled comparisons that they learned from besides."""
    trust: Mapping[str, float]
    """Weight of each annotator by name."""
    differences: NDArray[np.float64]
    """Judgements x questions, by heads that were not trained on the prompt; not a number where there are none."""


def finish(model: RewardModel, trained: Trained, table: Table, inputs: Rows, facts: Mapping[str, Any]) -> None:
    """Centre the rewards, calibrate every question that was asked often enough, and tell what was found.

    Args:
        table: its first rows are ``trained.judgements``.
        facts: told as they are.
    """
    judgements = trained.judgements
    rows = torch.unique(torch.cat((table.first[: len(judgements)], table.second[: len(judgements)])))
    with torch.no_grad():
        model.heads.centre(torch.cat([inputs(part) for part in torch.split(rows, 256)]))
    weighed = weighted_by_question([*trained.learned, *trained.planted])
    own, planted = (part.sum(0) for part in (weighed[: len(trained.learned)], weighed[len(trained.learned) :]))
    questions: dict[str, Any] = {}
    for number, question in enumerate(HEADS):
        asked = [k for k, j in enumerate(judgements) if question in (OVERALL, j.question) and j.weight > 0]
        if not asked:
            continue
        checked = [k for k in asked if np.isfinite(trained.differences[k, number])]
        outcomes = np.array([judgements[k].shares for k in checked]).reshape(-1, 3)
        weights = np.array([judgements[k].weight for k in checked])
        enough = len(checked) >= LEAST
        gaps = trained.differences[checked, number]
        found = fit_calibration(gaps, outcomes, weights) if enough else Calibration()
        model.calibration[question] = found
        _, right, counts = folded(gaps, outcomes, weights)
        whole = float(own[number] + planted[number])
        questions[question] = {
            "judgements": len(asked),
            "held_out": len(checked),
            "held_out_accuracy": float((right * counts).sum() / counts.sum()) if len(right) else None,
            "temperature": found.temperature if enough else None,
            "lapses": found.lapses,
            "planted_share": float(planted[number]) / whole if whole else 0.0,
        }
    model.facts = {**_counts(trained), "questions": questions, **facts}


def _counts(trained: Trained) -> dict[str, Any]:
    """Who and what was asked. Annotators have no names here: a model is passed on, with all that is told of it."""
    marks = sorted({prompt_mark(j.prompt) for j in trained.judgements})
    weights = np.quantile(list(trained.trust.values()), [0, 0.25, 0.5, 0.75, 1]).tolist() if trained.trust else []
    return {
        "trained_prompts": " ".join(marks),
        "images": len({p.sha256 for j in trained.judgements for p in (j.first, j.second)}),
        "prompts": len({j.prompt for j in trained.judgements}),
        "annotators": {
            "count": len({j.annotator for j in trained.judgements} - {None}),
            # smallest, quartiles and largest; empty where all count alike
            "weight_quantiles": weights,
        },
    }


def weighted_by_question(judgements: Sequence[Judgement]) -> Tensor:
    """n x Q: the weight of each judgement under its own question and under the overall one.

    Under the overall one, planted flaws weigh together at most as much as the votes on flaws do, so that they do not
    drown the other questions; where nobody was asked about flaws, at most a third of all votes.
    """
    rows = torch.zeros(len(judgements), len(HEADS))
    overall = HEADS.index(OVERALL)
    for row, judgement in zip(rows, judgements, strict=True):
        row[overall] = judgement.weight
        if judgement.question in QUESTIONS:
            row[HEADS.index(judgement.question)] = judgement.weight
    planted = torch.tensor([TAG in judgement.tags for judgement in judgements], dtype=torch.bool)
    votes, made = rows[~planted], rows[planted, overall].sum()
    most = votes[:, HEADS.index("flaws")].sum() or votes[:, overall].sum() / 3
    if made > most:
        rows[planted, overall] *= most / made
    return rows
