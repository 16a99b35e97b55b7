"""A study as a folder that trains, at any moment of it.

::

    votes.parquet, votes.jsonl      every vote, superseded ones included
    pairs/                          preference pairs (see pixeval.pair_folder) with the flaw maps of their images
    flaw-maps/SAMPLE.png            marks as masks: white major, grey minor; for --flaws.maps of the trainers
    heat-maps/SAMPLE.png            share of annotators who marked a place, smoothed (RichHF-18K)
    study.json                      what was asked, how ties were treated, who was left out, the end of the chain
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from PIL import Image

from human_eval_app.answers import read_votes
from human_eval_app.exclusion import declared_exclusion, excluded
from human_eval_app.export import write_json, write_votes
from human_eval_app.flaw_masks import flaw_mask, heat_map
from human_eval_app.overview import known_answers
from human_eval_app.projects import Project
from human_eval_app.quality import annotator_quality
from human_eval_app.schema import images
from human_eval_app.store import Store
from human_eval_app.study_facts import study_facts
from pixeval.errors import InputError
from pixeval.flaw_marks import marks_by_image
from pixeval.pair_folder import export_pairs
from pixeval.pairs import TiePolicy, from_votes
from pixeval.records import Question, Vote, people_first

LEVELS = 255


@dataclass(frozen=True)
class ExportConfig:
    """How votes become pairs."""

    ties: TiePolicy = "drop"
    """What ties and 'both bad' do to the share of votes: 'drop' leaves them out, 'half' counts half for each."""
    questions: tuple[Question, ...] = ("flaws", "appeal")
    """Questions that may decide a pair; the first of flaws, appeal, alignment that prefers an image does."""
    min_votes: int = 1
    """Votes that a pair needs on the deciding question, after the tie policy."""
    exclude: bool = False
    """Leave out the annotators that the declared rule of exclusion excludes; from the pairs only."""


@dataclass(frozen=True)
class StudyImages:
    """Files and sizes of a project's images, by sample id."""

    files: Mapping[str, Path]
    sizes: Mapping[str, tuple[int, int]]
    """Width and height."""


def export_study(store: Store, project: Project, folder: Path, config: ExportConfig) -> dict[str, Any]:
    """Write the folder; an earlier export in it is replaced.

    Returns:
        JSON-ready: ``out``, ``votes``, ``pairs``, ``flaw_maps``, ``excluded`` and ``unreadable`` (reasons of pairs left
        out because an image could not be read).

    Raises:
        InputError: no votes yet, or the folder holds something else.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / "study.json").exists():
        raise InputError(f"{folder} is not empty and not the export of a study; give a new folder")
    with store.read() as connection:
        votes = [stored.vote for stored in read_votes(connection, store.secret, project.id)]
        found = study_images(connection, project.id)
        left_out = _left_out(connection, project, votes) if config.exclude else {}
        facts = study_facts(connection, project)
    if not votes:
        raise InputError(f"project {project.name!r} has no votes to export yet")
    # Written first, so that a folder that was cut off is known as an export and can be written again.
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "study.json", {**facts, "export": asdict(config), "excluded": left_out})
    write_votes(folder / "votes.parquet", votes)
    write_votes(folder / "votes.jsonl", votes)
    masks = flaw_maps(votes, found.sizes)
    heat = heat_maps(votes, found.sizes)
    for name, maps in (("flaw-maps", masks), ("heat-maps", heat)):
        _write_images(folder / name, maps)
    kept = [vote for vote in people_first(votes) if vote.annotator not in left_out]
    pairs = from_votes(kept, found.files, config.questions, config.ties, config.min_votes)
    unreadable: list[str] = []
    if pairs:
        policy = f"ties and 'both bad': {config.ties}; at least {config.min_votes} vote(s) a pair"
        policy += f"; {len(left_out)} annotator(s) left out by the declared rule" if left_out else ""
        unreadable = export_pairs(pairs, folder / "pairs", policy, masks)
    return {
        "out": str(folder),
        "votes": len(votes),
        "pairs": len(pairs) - len(unreadable),
        "flaw_maps": len(masks),
        "excluded": left_out,
        "unreadable": unreadable,
    }


def flaw_maps(votes: Sequence[Vote], sizes: Mapping[str, tuple[int, int]]) -> dict[str, bytes]:
    """Masks as PNG by sample id, of the images that somebody marked."""
    found = {}
    for sample, by_annotator in marks_by_image(votes).items():
        if sample in sizes and any(by_annotator.values()):
            found[sample] = _png(flaw_mask(by_annotator, *sizes[sample]))
    return found


def heat_maps(votes: Sequence[Vote], sizes: Mapping[str, tuple[int, int]]) -> dict[str, bytes]:
    """Heat maps as PNG by sample id, of the images whose flaws somebody judged; black where nobody marked anything."""
    found = {}
    for sample, by_annotator in marks_by_image(votes).items():
        if sample in sizes:
            heat = heat_map(by_annotator, *sizes[sample])
            found[sample] = _png(np.round(heat * LEVELS).astype(np.uint8))
    return found


def study_images(connection: sa.Connection, project: str) -> StudyImages:
    """Where the images of a project are."""
    query = sa.select(images.c.sample, images.c.path, images.c.width, images.c.height)
    rows = list(connection.execute(query.where(images.c.project == project)))
    files = {row.sample: Path(row.path) for row in rows}
    return StudyImages(files, {row.sample: (row.width, row.height) for row in rows})


def _left_out(connection: sa.Connection, project: Project, votes: Sequence[Vote]) -> dict[str, str]:
    rule = declared_exclusion(connection, project.id)
    if rule is None:
        return {}
    return excluded(rule, annotator_quality(votes, known_answers(connection, project.id)))


def _write_images(folder: Path, maps: Mapping[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    for stale in folder.glob("*.png"):
        if stale.stem not in maps:
            stale.unlink()
    for sample, data in maps.items():
        if not sample.isalnum():
            raise InputError(f"sample id {sample!r} is no name for a file; make the run again with 'pixeval generate'")
        (folder / f"{sample}.png").write_bytes(data)


def _png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
