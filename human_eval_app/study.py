"""A study: what is compared, on which questions, and where the answers go."""

import hashlib
import hmac
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from human_eval_app.schedule import Matchup, match_samples, plan
from human_eval_app.session import Standing, standing
from human_eval_app.store import Store
from pixeval.errors import InputError
from pixeval.records import QUESTIONS, Question, Sample
from pixeval.runs import Run


@dataclass(frozen=True)
class Arms:
    """The sets of images that a study compares."""

    groups: dict[str, list[Sample]]
    """Samples by the label that votes record."""
    images: dict[str, Path]
    """File of each sample id."""
    first_run: Path
    """Folder of the first run given."""


@dataclass(frozen=True)
class Study:
    """Everything that the page, the API and simulated annotators need."""

    matchups: tuple[Matchup, ...]
    labels: dict[str, str]
    """Recorded label by sample id; no annotator sees it."""
    images: dict[str, Path]
    questions: tuple[Question, ...]
    seed: int
    store: Store

    def join(self, annotator: str) -> None:
        """Give an annotator their assignments; one who has them keeps them."""
        self.store.enrol(plan(annotator, self.matchups, self.labels, self.questions, self.seed, self.store.secret))

    def standing(self, annotator: str) -> Standing:
        """Where an annotator stands; nothing to do when they never joined."""
        return standing(self.store.assignments(annotator), self.store.answers(annotator))

    def image_key(self, sample_id: str) -> str:
        """The opaque name under which the browser asks for an image: keyed, so it cannot be computed from outside."""
        return hmac.new(self.store.secret.encode(), sample_id.encode(), hashlib.sha256).hexdigest()[:32]


def open_study(arms: Arms, questions: Sequence[Question], seed: int, store: Store) -> Study:
    """Match the images and settle the seed (a store keeps the one it was started with).

    Pairs whose image file is missing are left out, with a line on stderr.

    Raises:
        InputError: no questions, nothing to compare, or no image file is there.
    """
    asked = tuple(q for q in QUESTIONS if q in questions)
    if not asked:
        raise InputError(f"ask at least one question out of {', '.join(QUESTIONS)}")
    matchups = match_samples(arms.groups)
    there = [m for m in matchups if arms.images[m.a.id].is_file() and arms.images[m.b.id].is_file()]
    if not there:
        raise InputError(f"no image file is there, for example {arms.images[matchups[0].a.id]}; generate the run again")
    if len(there) < len(matchups):
        print(f"left out {len(matchups) - len(there)} pairs whose image file is missing", file=sys.stderr)
    labels = {sample.id: label for label, group in arms.groups.items() for sample in group}
    kept_seed = int(store.setting("seed", str(seed)))
    return Study(tuple(there), labels, arms.images, asked, kept_seed, store)


def read_arms(specs: Sequence[str | Path]) -> Arms:
    """The sets of images named by ``RUN`` or ``RUN:LABEL``.

    A label that two runs share becomes ``RUN-NAME:LABEL``.

    Raises:
        InputError: no such run or label, or a run of several labels without saying which.
    """
    if not specs:
        raise InputError("give two or more run folders, or RUN:LABEL")
    arms = [_read_arm(str(spec)) for spec in specs]
    plain = [label for _, label, _ in arms]
    groups: dict[str, list[Sample]] = {}
    images: dict[str, Path] = {}
    for run, label, samples in arms:
        name = label if plain.count(label) == 1 else f"{run.name}:{label}"
        if name in groups:
            raise InputError(f"{name!r} is given twice; compare different sets of images")
        groups[name] = samples
        images.update((sample.id, run.image(sample)) for sample in samples)
    return Arms(groups, images, arms[0][0].path)


def _read_arm(spec: str) -> tuple[Run, str, list[Sample]]:
    path, separator, label = spec.rpartition(":")
    if not separator or Path(spec).exists():
        path, label = spec, ""
    run = Run.open(Path(path))
    by_label: dict[str, list[Sample]] = {}
    for sample in run.samples():
        by_label.setdefault(sample.label, []).append(sample)
    if not by_label:
        raise InputError(f"{path} holds no samples; make some with 'pixeval generate'")
    if not label and len(by_label) > 1:
        example = " ".join(f"{path}:{name}" for name in list(by_label)[:2])
        raise InputError(
            f"{path} holds several sets of images ({', '.join(by_label)}); say which, for example {example}"
        )
    label = label or next(iter(by_label))
    if label not in by_label:
        raise InputError(f"{path} has no samples labelled {label!r}; it has {', '.join(by_label)}")
    return run, label, by_label[label]
