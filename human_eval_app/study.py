"""From runs and folders of images to a project: what is compared, and what is left out."""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from human_eval_app.images import UnusableImage, image_size
from human_eval_app.projects import NewPair, PairImage, Project, add_pairs, keep_project
from human_eval_app.schedule import Design, Matchup, default_overlap, match_samples
from human_eval_app.store import Store
from pixeval.errors import InputError
from pixeval.folder import folder_samples
from pixeval.records import Question, Sample
from pixeval.runs import Run

DEFAULT_NAME = "study"
DEFAULT_TITLE = "Compare images"


@dataclass(frozen=True)
class Arms:
    """The sets of images that a study compares."""

    groups: dict[str, list[Sample]]
    """Samples by the label that votes record."""
    images: dict[str, Path]
    """File of each sample id."""
    first_run: Path
    """Folder of the first run given."""
    checks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Yes/no questions by prompt id."""


def open_study(
    store: Store,
    arms: Arms,
    design: Design,
    name: str = DEFAULT_NAME,
    title: str = DEFAULT_TITLE,
    guideline: str = "",
    known: Sequence[NewPair] = (),
) -> Project:
    """Match the images and make the project, or bring it up to date; a project keeps the seed it was started with.

    Pairs whose image cannot be shown are left out, with a line on stderr.

    Args:
        design: ``votes_per_pair`` None stands for everybody judging everything; see :func:`settle_overlap`.
        known: gold and training pairs.

    Raises:
        InputError: nothing to compare, or no image can be read.
    """
    matchups = match_samples(arms.groups)
    pairs = pairs_of(arms, matchups, design.questions)
    if len(pairs) < len(matchups):
        print(f"left out {len(matchups) - len(pairs)} pairs with an image that cannot be shown", file=sys.stderr)
    with store.write() as connection:
        project = keep_project(connection, store.secret, name, title, guideline, design)
        add_pairs(connection, store.secret, project, [*pairs, *known])
    return project


def settle_overlap(votes_per_pair: int | None, pairs: int) -> int | None:
    """Votes per pair: as given (0 for everybody judging everything), or what suits a study of so many pairs."""
    return default_overlap(pairs) if votes_per_pair is None else votes_per_pair or None


def pairs_of(arms: Arms, matchups: Sequence[Matchup], questions: Sequence[Question]) -> list[NewPair]:
    """What is asked about each matchup whose images can be shown; alignment only where there is a prompt.

    Raises:
        InputError: no image can be read.
    """
    labels = {sample.id: label for label, group in arms.groups.items() for sample in group}
    shown: dict[str, PairImage | None] = {}
    reason = ""

    def show(sample: Sample) -> PairImage | None:
        nonlocal reason
        if sample.id not in shown:
            path = arms.images[sample.id]
            try:
                shown[sample.id] = PairImage(sample.id, labels[sample.id], path, *image_size(path))
            except UnusableImage as error:
                reason, shown[sample.id] = f"{path}: {error}", None
        return shown[sample.id]

    pairs = []
    for matchup in matchups:
        a, b = show(matchup.a), show(matchup.b)
        asked = tuple(q for q in questions if q != "alignment" or matchup.prompt)
        if a is not None and b is not None and asked:
            checks = arms.checks.get(matchup.prompt_id, ())
            pairs.append(NewPair(a, b, matchup.prompt_id, matchup.prompt, asked, checks))
    if not pairs:
        raise InputError(f"no image file is there that can be shown ({reason or 'and no question to ask'})")
    return pairs


def read_arms(specs: Sequence[str | Path], prompts: Path | None = None) -> Arms:
    """The sets of images named by ``RUN``, ``RUN:LABEL`` or a folder of images.

    A label that two runs share becomes ``RUN-NAME:LABEL``. Images of folders without ``prompts`` are matched by their
    path below the folder, and nothing is asked about a text.

    Args:
        prompts: for folders: CSV or JSON lines with the file name and the prompt of each image, the same for all.

    Raises:
        InputError: no such run, folder or label, or a run of several labels without saying which.
    """
    if not specs:
        raise InputError("give two or more run folders, folders of images, or RUN:LABEL")
    arms = [_read_arm(str(spec), prompts) for spec in specs]
    plain = [arm.label for arm in arms]
    groups: dict[str, list[Sample]] = {}
    images: dict[str, Path] = {}
    checks: dict[str, tuple[str, ...]] = {}
    for arm in arms:
        name = arm.label if plain.count(arm.label) == 1 else f"{arm.name}:{arm.label}"
        if name in groups:
            raise InputError(f"{name!r} is given twice; compare different sets of images")
        groups[name] = arm.samples
        images.update((sample.id, arm.root / sample.path) for sample in arm.samples)
        checks.update(arm.checks)
    return Arms(groups, images, arms[0].folder, checks)


@dataclass(frozen=True)
class _Arm:
    folder: Path
    root: Path
    name: str
    label: str
    samples: list[Sample]
    checks: dict[str, tuple[str, ...]]


def _read_arm(spec: str, prompts: Path | None) -> _Arm:
    path, separator, label = spec.rpartition(":")
    if not separator or Path(spec).exists():
        path, label = spec, ""
    folder = Path(path)
    if folder.is_dir() and not (folder / "run.json").exists():
        samples = [_named(sample) for sample in folder_samples(folder, prompts)]
        return _Arm(folder, folder, folder.resolve().parent.name, folder.resolve().name, samples, {})
    run = Run.open(folder)
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
    checks = {prompt.id: prompt.questions for prompt in run.prompts() if prompt.questions}
    return _Arm(run.path, run.image_root, run.name, label, by_label[label], checks)


def _named(sample: Sample) -> Sample:
    """A folder's image without a prompt, known by its path without the ending."""
    if sample.prompt_id is not None:
        return sample
    name = sample.path.rpartition(".")[0]
    return dataclasses.replace(sample, prompt_id=f"file:{name}", prompt="")
