"""``pixeval reward flaw-map``: trains a map of flaws and says how well it finds them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from pixeval.errors import InputError
from pixeval.runs import Run
from pixeval.validation.clean_images import clean_images
from pixeval.validation.planted_flaws import MEDIUM
from reward_models.flaw_examples import annotated_images, hold_out, marked_examples, planted_examples, training_images
from reward_models.flaw_figures import Judged, agreement, judge, summary
from reward_models.flaw_map import STEPS, fit_map, lessons
from reward_models.richhf import richhf_examples


@dataclass(frozen=True)
class FlawMapConfig:
    """Learn where images are flawed, from planted flaws and from annotators' marks."""

    out: Path
    """Folder of the flaw map."""
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Runs with votes that carry marks; none for planted flaws alone."""
    richhf: Path | None = None
    """Folder with train.tfrecord and test.tfrecord of RichHF-18K, to learn from and to be judged on as well."""
    images: Path | None = None
    """Folder with the images of Pick-a-Pic that RichHF-18K is about."""
    richhf_images: int = 2000
    """Most images that are taken of each part of RichHF-18K."""
    seed: int = 0
    """Of the weights, and of the parts that are learned from."""


def train_map(config: FlawMapConfig) -> dict[str, Any]:
    """Carry out ``pixeval reward flaw-map``; returns the figures on images that were not trained on.

    Raises:
        InputError: a run that is none, marks on samples that are in none of the runs, or RichHF-18K without its images.
    """
    if (config.richhf is None) != (config.images is None):
        raise InputError("RichHF-18K has no images: give both --richhf and --images, the images of Pick-a-Pic")
    if config.richhf_images < 1:
        raise InputError(f"--richhf-images must be at least 1, got {config.richhf_images}")
    problems: list[str] = []
    marked, held = hold_out(annotated_images([Run.open(path) for path in config.runs]), config.seed)
    taught = lessons(marked_examples(marked, problems), config.seed, progress=True)
    if config.richhf is not None and config.images is not None:
        people = richhf_examples(config.richhf, config.images, "train", config.richhf_images, problems)
        taught += lessons(people, config.seed, progress=True)
    learned = len(taught)
    taught += lessons(planted_examples(training_images()), config.seed, progress=True)
    found = fit_map(taught, config.seed, STEPS)
    found.save(config.out)
    told: dict[str, Any] = {
        "out": str(config.out),
        "marked_images": learned,
        "held_out_images": len(held),
        "planted": figures(judge(found.heatmap, planted_examples(clean_images("report"), (MEDIUM,)))),
    }
    if held:
        told["held-out marks"] = of_people(judge(found.heatmap, marked_examples(held, problems)))
    if config.richhf is not None and config.images is not None:
        people = richhf_examples(config.richhf, config.images, "test", config.richhf_images, problems)
        told["RichHF-18K test"] = of_people(judge(found.heatmap, people))
    told["left_out"] = problems
    (config.out / "figures.json").write_text(json.dumps(told, indent=1) + "\n")
    return told


def figures(judged: list[Judged]) -> dict[str, Any]:
    """Of all examples, by kind of image, and by flaw."""
    kinds = sorted({one.kind for one in judged})
    flaws = list(dict.fromkeys(one.flaw for one in judged if one.flaw))
    return {
        "all": summary(judged),
        "kinds": {kind: summary([one for one in judged if one.kind == kind]) for kind in kinds},
        "flaws": {flaw: summary([one for one in judged if one.flaw == flaw]) for flaw in flaws},
    }


def of_people(judged: list[Judged]) -> dict[str, Any]:
    """The figures of RichHF-18K's paper, and how the means of the maps agree with what people said of whole images.

    That is the negative of the rating: the share of annotators who marked something, or the artefact score.
    """
    told = summary(judged)
    ratings = [-one.rating for one in judged if one.rating is not None]
    if len(set(ratings)) > 1 and len(ratings) > 2 and len({one.mean for one in judged}) > 1:
        told |= agreement(ratings, judged)
    return told
