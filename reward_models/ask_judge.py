"""``pixeval reward judge``: a language model behind an endpoint against people's choices, each pair in both orders.

Answers are kept in ``answers.jsonl`` as they come, so that a stopped command asks only what is left.
"""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tqdm import tqdm

from pixeval.errors import InputError
from pixeval.images import UnreadableImage, decode_image
from pixeval.records import Question
from pixeval.stats.bootstrap import mean_interval
from pixeval.validation.people import protocol_figures
from reward_models.agreement import Judged, majorities
from reward_models.judgements import Judgement, read_judgements
from reward_models.vlm_judge import MOST_TOKENS, Answer, TokenField, UnclearAnswer, Verdict, VlmJudge
from trainers.training_log import append, read_lines, truncate_log


@dataclass(frozen=True)
class RewardJudgeConfig:
    """Let a vision-language model compare images, and compare it with people."""

    table: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Runs with votes, data sets of 'pixeval pairs', or tables of choices."""
    endpoint: str
    """Address of an OpenAI-compatible service up to /v1. What is judged is sent there."""
    model: str
    """As the service calls it."""
    out: Path
    """Folder for answers.jsonl and evaluation.json."""
    question: Question = "alignment"
    """Asked where the table does not say which question was."""
    pairs: int | None = None
    """At most so many pairs, the first ones; none for all."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the key."""
    max_tokens: int = MOST_TOKENS
    """Of one answer, thoughts included. A model that thinks longer has no answer; one that does not needs few."""
    token_field: TokenField = "max_tokens"
    """How the service calls that."""
    temperature: float | None = 0.0
    """'None' for the service's own; some models take no other."""


def judge(config: RewardJudgeConfig) -> dict[str, Any]:
    """Carry out ``pixeval reward judge``; returns what is written to ``evaluation.json``.

    Raises:
        InputError: a bad table, an endpoint that does not answer, or no pair that could be judged. Pairs with an image
            that cannot be read, that the service refuses, or with an answer that is none of the three are left out and
            counted.
    """
    for name, value in (("--pairs", config.pairs), ("--max-tokens", config.max_tokens)):
        if value is not None and value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    asked = VlmJudge(
        config.endpoint,
        config.model,
        config.key_variable,
        most_tokens=config.max_tokens,
        token_field=config.token_field,
        temperature=config.temperature,
    )
    pairs = [one.judgement for one in majorities([Judged(j, 0.0) for j in read_judgements(config.table)])]
    pairs = pairs[: config.pairs]
    config.out.mkdir(parents=True, exist_ok=True)
    log = config.out / "answers.jsonl"
    truncate_log(log, 0)  # without a line that was cut off
    known = {row["key"]: row for row in read_lines(log)}
    verdicts: list[tuple[Judgement, Verdict]] = []
    reasons: list[str] = []
    for pair in tqdm(pairs, desc="ask", file=sys.stderr, disable=None):
        key = "/".join((config.model, pair.question or config.question, *(str(part) for part in pair.pair[:3])))
        if key not in known:
            try:
                known[key] = {"key": key, "step": 0, "orders": _ask(asked, pair, config.question)}
            except (UnreadableImage, UnclearAnswer) as error:
                reasons.append(str(error))
                continue
            append(log, known[key])
        orders: list[Answer] = known[key]["orders"]
        verdict = Verdict((orders[0], orders[1]))
        swapped = pair.first.sha256 > pair.second.sha256
        verdicts.append((pair, Verdict((orders[1], orders[0])) if swapped else verdict))
    if not verdicts:
        raise InputError(f"no pair could be judged; the first reason: {reasons[0]}")
    found = {"model": config.model, "pairs": len(verdicts), "left_out": dict(Counter(reasons)), **figures(verdicts)}
    (config.out / "evaluation.json").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    return found


def _ask(judge: VlmJudge, pair: Judgement, question: Question) -> list[Answer]:
    """Answers with the image first that sorts first, so that it does not matter how a table orders them."""
    sides = sorted((pair.first, pair.second), key=lambda picture: picture.sha256)
    images = [decode_image(side.contents(), side.name) for side in sides]
    return list(judge.compare(pair.prompt, images[0], images[1], pair.question or question).orders)


def figures(verdicts: Sequence[tuple[Judgement, Verdict]]) -> dict[str, Any]:
    """The published protocols, and how often the two orders agree, with 95 % intervals over prompts."""
    comparisons = []
    for pair, verdict in verdicts:
        first, _, second = pair.shares
        comparisons.append(verdict.comparison(pair.prompt, 0.5 if first == second else float(first > second)))
    prompts = [pair.prompt for pair, _ in verdicts]
    consistent = mean_interval([float(verdict.consistent) for _, verdict in verdicts], clusters=prompts)
    return {"consistent": vars(consistent), "protocols": protocol_figures(comparisons)}
