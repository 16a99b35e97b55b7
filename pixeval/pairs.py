"""Preference pairs from votes or from scores.

A vote-made pair is decided by the first of the asked questions, in the order flaws, appeal, alignment, that prefers
one of the two images; so when flaws and appeal conflict, fewer flaws wins, as in the paper (arXiv 2409.17565).
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from pixeval.catalog import find
from pixeval.errors import InputError, unknown_name
from pixeval.pair_folder import export_pairs
from pixeval.records import QUESTIONS, Pair, Question, Sample, Score, Vote, counted_votes, people_first
from pixeval.runs import Run

TiePolicy = Literal["drop", "half"]


@dataclass(frozen=True)
class PairsConfig:
    """Make a preference data set from the votes or the scores of runs."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders that hold the samples, and their votes or scores."""
    out: Path
    """Folder of the data set; made anew."""
    source: Annotated[str, tyro.conf.arg(name="from")] = "votes"
    """'votes', or 'score:METRIC' with the name of a metric that the runs were scored with."""
    questions: tuple[Question, ...] = ("flaws", "appeal")
    """Questions that may decide a pair; the first of flaws, appeal, alignment that prefers an image does."""
    ties: TiePolicy = "drop"
    """What ties and 'both bad' do to the share of votes: 'drop' leaves them out, 'half' counts half for each."""
    min_votes: int = 1
    """Votes that a pair needs on the deciding question, after the tie policy."""
    margin: float = 0.0
    """Least difference of scores, in the metric's units, for one image to be preferred."""
    every_pair: bool = False
    """With scores: all pairs of a prompt above the margin, instead of only its best against its worst."""
    agree: tuple[str, ...] = ()
    """With scores: other metrics that must prefer the same image, each as NAME or NAME=MARGIN in its own units."""
    fewer_flaws: tuple[str, ...] = ()
    """With scores: flaw metrics that come first, as NAME or NAME=MARGIN. An image with more of any of them, by more
    than the margin, is never preferred; as the paper's annotators chose for fewer flaws first."""
    temperature: float | None = None
    """With scores: soft labels are 1 / (1 + exp(-difference / temperature)), 1 for rewards of 'pixeval reward train'
    unless it names another; none for soft labels of 1."""
    lapses: float = 0.0
    """With a temperature: share of votes that are for either image by chance, whatever the difference. Soft labels are
    lapses / 2 + (1 - lapses) / (1 + exp(-difference / temperature)); 'pixeval reward train' names both."""


def from_votes(
    votes: Iterable[Vote],
    images: Mapping[str, Path],
    questions: Sequence[Question] = ("flaws", "appeal"),
    ties: TiePolicy = "drop",
    min_votes: int = 1,
) -> list[Pair]:
    """One pair for every two images on which the votes prefer one, ordered by prompt and sample ids.

    The soft label is the share of votes for the chosen image on the deciding question. Two images are left out when
    the votes are even or fewer than ``min_votes``, or when at least half of the answers to one question (skips
    aside) are ``reject``. Superseded votes are ignored.

    Args:
        votes: of people or simulated; see :func:`pixeval.records.people_first` for never mixing them.
        images: where the file of each sample id is.
        questions: which may decide.
        ties: ``drop`` leaves ties and ``both_bad`` out; ``half`` counts each as half a vote for either image.
        min_votes: least number of counted votes on the deciding question.

    Raises:
        InputError: there are no votes on these questions, or a voted sample is not among ``images``.
    """
    asked = [q for q in QUESTIONS if q in questions]
    grouped: dict[tuple[str, str], dict[Question, list[Vote]]] = defaultdict(lambda: defaultdict(list))
    for vote in counted_votes(list(votes)):
        if vote.question in asked and vote.choice != "skip":
            first, second = sorted((vote.left, vote.right))
            grouped[first, second][vote.question].append(vote)
    if not grouped:
        raise InputError(
            f"there are no votes on {' or '.join(repr(q) for q in asked) or 'no question'}; "
            "collect some with 'pixeval label', or ask other questions with --questions"
        )
    pairs = []
    for sample_ids in sorted(grouped, key=lambda ids: (_any_vote(grouped[ids]).prompt_id, ids)):
        for sample_id in sample_ids:
            if sample_id not in images:
                raise InputError(
                    f"sample {sample_id!r} has votes but is in none of the runs; give all the runs that were labelled"
                )
        if (pair := _decide(grouped[sample_ids], sample_ids, images, asked, ties, min_votes)) is not None:
            pairs.append(pair)
    return pairs


def _any_vote(by_question: Mapping[Question, list[Vote]]) -> Vote:
    return next(iter(by_question.values()))[0]


def _decide(
    by_question: Mapping[Question, list[Vote]],
    sample_ids: tuple[str, str],
    images: Mapping[str, Path],
    asked: Sequence[Question],
    ties: TiePolicy,
    min_votes: int,
) -> Pair | None:
    """The pair that these votes on two images make, if any."""
    if any(2 * sum(v.choice == "reject" for v in votes) >= len(votes) for votes in by_question.values()):
        return None
    for question in asked:
        answered = [v for v in by_question.get(question, []) if v.choice != "reject"]
        counted = [v for v in answered if ties == "half" or v.choice in ("left", "right")]
        if not counted or len(counted) < min_votes:
            continue
        share = sum(_share(v, sample_ids[0]) for v in counted) / len(counted)
        if share == 0.5:
            continue
        chosen, rejected = sample_ids if share > 0.5 else sample_ids[::-1]
        vote = counted[0]
        labels = {vote.left: vote.left_label, vote.right: vote.right_label}
        return Pair(
            prompt_id=vote.prompt_id,
            prompt=vote.prompt,
            chosen=chosen,
            rejected=rejected,
            chosen_path=str(images[chosen].resolve()),
            rejected_path=str(images[rejected].resolve()),
            chosen_label=labels[chosen],
            rejected_label=labels[rejected],
            soft_label=max(share, 1 - share),
            source=f"votes:{question}",
            n=len(counted),
            simulated=any(v.simulated for v in counted),
        )
    return None


def _share(vote: Vote, sample_id: str) -> float:
    if vote.choice in ("tie", "both_bad"):
        return 0.5
    return float((vote.left if vote.choice == "left" else vote.right) == sample_id)


def from_scores(
    samples: Iterable[Sample],
    scores: Iterable[Score],
    metric: str,
    images: Mapping[str, Path],
    higher_is_better: bool = True,
    margin: float = 0.0,
    every_pair: bool = False,
    conditions: Sequence["Condition"] = (),
    temperature: float | None = None,
    lapses: float = 0.0,
) -> list[Pair]:
    """For each prompt its best image over its worst by one metric, or every two images that differ enough.

    Of the k images of a prompt, the two whose values differ most among those that the conditions let through; so a best
    image with more flaws gives way to the next. Images without a value of the metric or of a condition are left out.

    Args:
        samples: of one or more runs; those without a prompt are left out.
        scores: of those samples.
        metric: the name in ``Score.metric``.
        images: where the file of each sample id is.
        higher_is_better: the metric's direction.
        margin: the two values must differ by more than this, in the metric's units.
        every_pair: all pairs above the margin instead of best against worst.
        conditions: what the better image must fulfil besides.
        temperature: soft labels are the logistic function of the difference over it; None for soft labels of 1.
        lapses: with a temperature, share of votes that are for either image whatever the difference; in [0, 1).

    Raises:
        InputError: no score has this metric's or a condition's name, or no sample with a prompt has all values.
    """
    scores = list(scores)
    named = [metric, *(condition.metric for condition in conditions)]
    for name in named:
        if name not in {s.metric for s in scores}:
            if not scores:
                raise InputError(f"the runs hold no scores; compute {name!r} with 'pixeval score' first")
            raise unknown_name("metric among the scores of these runs", name, {s.metric for s in scores})
    values = {n: {s.sample_id: s.value for s in scores if s.metric == n and s.value is not None} for n in set(named)}
    groups: dict[tuple[str, str], dict[str, Sample]] = defaultdict(dict)
    for sample in samples:
        if sample.prompt_id is not None and sample.prompt is not None and all(sample.id in v for v in values.values()):
            groups[sample.prompt_id, sample.prompt][sample.id] = sample
    if not groups:
        raise InputError(f"no sample with a prompt has a value of {metric!r}; score runs that were generated from text")
    own = Condition(metric, higher_is_better, margin)
    pairs = []
    for (prompt_id, prompt), group in sorted(groups.items()):
        ranked = sorted(group.values(), key=lambda s: (-own.gain(values[metric][s.id], 0.0), s.id))
        allowed = []
        for best, worst in combinations(ranked, 2):
            told = [(values[c.metric][best.id], values[c.metric][worst.id], c) for c in (own, *conditions)]
            if all(c.holds(first, second) for first, second, c in told):
                allowed.append((own.gain(told[0][0], told[0][1]), best, worst))
        place = {sample.id: rank for rank, sample in enumerate(ranked)}
        widest = sorted(allowed, key=lambda found: (-found[0], place[found[1].id], -place[found[2].id]))
        chosen = allowed if every_pair else widest[:1]
        for gap, best, worst in chosen:
            soft = 1.0 if temperature is None else _soft_label(gap / temperature, lapses)
            pairs.append(_scored_pair((prompt_id, prompt), best, worst, images, soft, metric))
    return pairs


@dataclass(frozen=True)
class Condition:
    """What a metric must say about two images for one to be preferred."""

    metric: str
    higher_is_better: bool
    margin: float
    """In the metric's units."""
    veto: bool = False
    """Only that the preferred image is not worse by more than the margin; else it must be better by more."""

    def gain(self, first: float, second: float) -> float:
        """How much better the first value is."""
        return (first - second) if self.higher_is_better else (second - first)

    def holds(self, first: float, second: float) -> bool:
        """Whether the image of the first value may be preferred."""
        found = self.gain(first, second)
        return found >= -self.margin if self.veto else found > self.margin


def _soft_label(log_odds: float, lapses: float) -> float:
    return lapses / 2 + (1 - lapses) / (1 + math.exp(-max(-700.0, min(700.0, log_odds))))


def _scored_pair(
    prompt: tuple[str, str], best: Sample, worst: Sample, images: Mapping[str, Path], soft: float, metric: str
) -> Pair:
    return Pair(
        prompt_id=prompt[0],
        prompt=prompt[1],
        chosen=best.id,
        rejected=worst.id,
        chosen_path=str(images[best.id].resolve()),
        rejected_path=str(images[worst.id].resolve()),
        chosen_label=best.label,
        rejected_label=worst.label,
        soft_label=soft,
        source=f"score:{metric}",
    )


def image_paths(runs: Iterable[Run]) -> dict[str, Path]:
    """Where the file of every sample of ``runs`` is, by sample id."""
    return {sample.id: run.image(sample) for run in runs for sample in run.samples()}


def make_pairs(config: PairsConfig) -> dict[str, Any]:
    """Run ``pixeval pairs``: read the runs, make the pairs, write the data set.

    People's votes are used where there are any; simulated ones only when there are no others.

    Returns:
        JSON-ready: ``out``, ``pairs`` (number written), ``source``, ``simulated``, ``unreadable`` (reasons of pairs
        left out because an image could not be read).

    Raises:
        InputError: no votes, an unknown metric, a run that is none, or nothing that makes a pair.
    """
    runs = [Run.open(path) for path in config.runs]
    if not runs:
        raise InputError("give at least one run folder")
    images = image_paths(runs)
    if config.source == "votes":
        votes = {vote.id: vote for run in runs for vote in run.votes()}
        pairs = from_votes(people_first(list(votes.values())), images, config.questions, config.ties, config.min_votes)
        policy = f"ties and 'both bad': {config.ties}; at least {config.min_votes} vote(s) a pair"
    elif config.source.startswith("score:") and len(config.source) > len("score:"):
        metric = config.source.removeprefix("score:")
        pairs = from_scores(
            [s for run in runs for s in run.samples()],
            [s for run in runs for s in run.scores()],
            metric,
            images,
            _higher_is_better(metric),
            config.margin,
            config.every_pair,
            conditions(config),
            config.temperature,
            config.lapses,
        )
        kind = "every two images of a prompt" if config.every_pair else "best against worst image of a prompt"
        policy = f"{kind}, values more than {config.margin:g} apart"
        if config.agree:
            policy += f"; in agreement with {', '.join(config.agree)}"
        if config.fewer_flaws:
            policy += f"; never with more of {', '.join(config.fewer_flaws)}"
        if config.temperature is not None:
            policy += f"; soft labels at temperature {config.temperature:g} with {config.lapses:g} lapses"
    else:
        raise InputError(
            f"--from {config.source!r} is neither 'votes' nor 'score:METRIC'; say where to take pairs from"
        )
    if not pairs:
        raise InputError(
            f"{config.source} prefers no image over another ({policy}); "
            "collect more votes, or lower --min-votes or --margin"
        )
    unreadable = export_pairs(pairs, config.out, policy)
    return {
        "out": str(config.out),
        "pairs": len(pairs) - len(unreadable),
        "source": config.source,
        "simulated": any(pair.simulated for pair in pairs),
        "unreadable": unreadable,
    }


def conditions(config: PairsConfig) -> list[Condition]:
    """What ``agree`` and ``fewer_flaws`` demand.

    Raises:
        InputError: an unknown metric, a margin that is none, a metric among ``fewer_flaws`` that measures no flaw, or a
            temperature or lapses that make no soft labels.
    """
    if config.temperature is not None and not 0 < config.temperature < math.inf:
        raise InputError(f"--temperature must be a positive number, got {config.temperature}")
    if not 0 <= config.lapses < 1:
        raise InputError(f"--lapses must be a share from 0 to below 1, got {config.lapses}")
    if config.lapses and config.temperature is None:
        raise InputError("--lapses needs --temperature; 'pixeval reward train' names both for its rewards")
    found = []
    for words, veto in ((config.agree, False), (config.fewer_flaws, True)):
        for word in words:
            name, _, margin = word.partition("=")
            spec = find(name)
            if veto and spec.family != "flaws":
                raise InputError(f"--fewer-flaws {name}: {name} measures no flaw; ask for it with --agree")
            try:
                found.append(Condition(name, spec.higher_is_better, float(margin or 0), veto))
            except ValueError as error:
                raise InputError(f"{word!r} is not of the form NAME or NAME=MARGIN, as in 'clip_score=2'") from error
    return found


def _higher_is_better(metric: str) -> bool:
    """The direction of a metric of the catalogue."""
    return find(metric).higher_is_better
