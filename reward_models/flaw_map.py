"""Where an image is flawed: one map of all kinds of flaws, learned from planted ones and from annotators' marks.

A logistic model per pixel on the heat maps of pixeval's own detectors, each as it is and smoothed. Its weights cannot
be negative: more heat of any detector never makes a place less suspicious.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from pixeval.catalog import load, select
from pixeval.errors import InputError
from pixeval.images import UnreadableImage, read_image
from pixeval.metrics.filters import gaussian
from pixeval.records import FlawMark, counted_votes, people_first
from pixeval.runs import Run
from pixeval.stats.bootstrap import mean_interval
from pixeval.validation.clean_images import Split, clean_images
from pixeval.validation.localisation import FIGURES, mean_iou
from pixeval.validation.planted_flaws import MEDIUM, PLANTED, VISIBLE, plant
from pixeval.weight_files import digest, read_weights

SMOOTH = 4.0
"""Sigma in pixels of the smoothed heat."""
SAMPLED = 400
"""Pixels of one image that are learned from."""
STEPS, RATE, PENALTY = 400, 0.05, 1e-3
POINT = 0.05
"""Radius of the place that a mark without size stands for, as a share of the shorter side."""
THRESHOLD = 0.5
"""Of the map, for mIoU."""


@dataclass(frozen=True)
class Marked:
    """An image and where it is flawed."""

    pixels: Tensor
    """3 x H x W in [0, 1]."""
    mask: Tensor
    """H x W, 0 or 1; all 0 for a sound image."""
    source: str
    """Images of one source are not independent."""


class FlawMap:
    """A flaw scorer of all kinds: values are the mean of the map, both in [0, 1]; higher is worse.

    Args:
        detectors: flaw metrics of the catalogue.
        weights: 2 x detectors, at least 0: of the heat, and of the smoothed heat.
        bias: of the logistic model.
    """

    def __init__(self, detectors: Sequence[str], weights: Tensor, bias: Tensor) -> None:
        self.names = list(detectors)
        self._detectors = [load(spec) for spec in select(detectors)]
        self.weights, self.bias = weights, bias
        told = "/".join(str(detector.fingerprint) for detector in self._detectors)
        self.fingerprint = f"flaw_map/1/{digest({'weights': weights, 'bias': bias})}/{told}"

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        """(N,) means of the map."""
        return self.heatmap(images).flatten(1).mean(1)

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1]: how probable it is that a place is flawed."""
        logits = torch.einsum("nchw,c->nhw", heats(self._detectors, images), self.weights.flatten().to(images))
        return torch.sigmoid(logits + self.bias.to(images))

    def save(self, folder: Path) -> None:
        """Write ``flaw_map.json`` and ``flaw_map.safetensors``."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"weights": self.weights.contiguous(), "bias": self.bias}, folder / "flaw_map.safetensors")
        told = {"detectors": self.names, "fingerprint": self.fingerprint}
        (folder / "flaw_map.json").write_text(json.dumps(told, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "FlawMap":
        """A saved one.

        Raises:
            InputError: none is there, it is damaged, or a detector has changed since.
        """
        try:
            told = json.loads((folder / "flaw_map.json").read_text())
            tensors = read_weights(folder / "flaw_map.safetensors", "the flaw map")
            found = cls(told["detectors"], tensors["weights"], tensors["bias"])
        except (OSError, json.JSONDecodeError, KeyError) as error:
            raise InputError(
                f"{folder} holds no flaw map ({error}); make one with 'pixeval reward flaw-map'"
            ) from error
        if found.fingerprint != told.get("fingerprint"):
            raise InputError(f"{folder} was trained with other versions of the flaw detectors; train it again")
        return found


def heats(detectors: Sequence[Any], images: Tensor) -> Tensor:
    """N x 2 C x H x W: roots of the heat of C detectors, then of the smoothed heat."""
    plain = torch.stack([detector.heatmap(images) for detector in detectors], 1)
    n, channels, height, width = plain.shape
    smooth = gaussian(plain.reshape(n * channels, 1, height, width), SMOOTH).view_as(plain)
    return (torch.cat((plain, smooth), 1).clamp_min(0) + 1e-6).sqrt()


def planted_examples(split: Split, levels: Sequence[int] = (MEDIUM,)) -> list[Marked]:
    """Bundled clean images, and each with every planted flaw that can be seen in it."""
    found = []
    for image in clean_images(split):
        found.append(Marked(image.pixels, torch.zeros(image.pixels.shape[-2:]), image.source))
        for number, flaw in enumerate(PLANTED):
            planted = plant(flaw, image.pixels, levels[number % len(levels)], image.name)
            if planted.change >= VISIBLE:
                found.append(Marked(planted.pixels, planted.mask, image.source))
    return found


def marked_examples(runs: Sequence[Run]) -> list[Marked]:
    """Images that annotators marked places of, and those of the same pairs that they left unmarked."""
    files = {s.id: (run.image(s), s.prompt_id or s.id) for run in runs for s in run.samples()}
    votes = {vote.id: vote for run in runs for vote in run.votes()}
    marks: dict[str, list[FlawMark]] = {}
    for vote in counted_votes(people_first(list(votes.values()))):
        if vote.marks:
            for side, sample in (("left", vote.left), ("right", vote.right)):
                marks.setdefault(sample, []).extend(mark for mark in vote.marks if mark.side == side)
    found = []
    for sample, placed in marks.items():
        if sample not in files:
            raise InputError(f"sample {sample!r} has marks but is in none of the runs; give all that were labelled")
        try:
            pixels = read_image(files[sample][0])
        except UnreadableImage:
            continue
        found.append(Marked(pixels, mask_of(placed, pixels.shape[-2], pixels.shape[-1]), files[sample][1]))
    return found


def mask_of(marks: Sequence[FlawMark], height: int, width: int) -> Tensor:
    """H x W: 1 in the boxes, and within ``POINT`` of marks without size."""
    rows, columns = (torch.arange(height)[:, None] + 0.5) / height, (torch.arange(width)[None] + 0.5) / width
    mask = torch.zeros(height, width, dtype=torch.bool)
    for mark in marks:
        if mark.width > 0 and mark.height > 0:
            inside = (rows >= mark.y) & (rows <= mark.y + mark.height)
            mask |= inside & (columns >= mark.x) & (columns <= mark.x + mark.width)
        else:
            short = min(height, width)
            mask |= torch.hypot((rows - mark.y) * height / short, (columns - mark.x) * width / short) <= POINT
    return mask.float()


def fit_map(examples: Sequence[Marked], seed: int = 0, progress: bool = False) -> FlawMap:
    """Weights by penalised maximum likelihood on pixels of all examples; of a flawed image, half are flawed ones.

    Raises:
        InputError: no example has a flawed place.
    """
    if not any(bool(one.mask.any()) for one in examples):
        raise InputError("no image has a marked place; collect votes with marks, or plant flaws")
    names = [spec.name for spec in select(["flaws"]) if not spec.needs]
    detectors = [load(spec) for spec in select(names)]
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = [], []
    for one in tqdm(examples, desc="flaw map", file=sys.stderr, disable=not progress):
        with torch.no_grad():
            channels = heats(detectors, one.pixels[None])[0].flatten(1)
        flat = one.mask.flatten()
        chance = torch.where(flat > 0, 0.5 / flat.sum().clamp_min(1), 0.5 / (1 - flat).sum().clamp_min(1))
        rows = torch.multinomial(chance, SAMPLED, replacement=True, generator=generator)
        inputs.append(channels[:, rows].T)
        targets.append(flat[rows])
    x, y = torch.cat(inputs), torch.cat(targets)
    weights = torch.zeros(x.shape[1], requires_grad=True)
    bias = torch.tensor([-1.0], requires_grad=True)
    optimizer = torch.optim.Adam((weights, bias), lr=RATE)
    for _ in range(STEPS):
        loss = F.binary_cross_entropy_with_logits(x @ weights + bias, y) + PENALTY * weights.square().sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            weights.clamp_(min=0)
    return FlawMap(names, weights.detach().view(2, -1), bias.detach())


def localisation(found: FlawMap, examples: Sequence[Marked]) -> dict[str, Any]:
    """Mean figures of the RichHF protocol over images with flawed places, and the mean heat of sound ones (MSE)."""
    values: dict[str, list[float]] = {name: [] for name in (*FIGURES, "mIoU", "MSE", "MSE of sound images")}
    sources: dict[str, list[str]] = {name: [] for name in values}
    for one in examples:
        with torch.no_grad():
            heat = found.heatmap(one.pixels[None])[0].double().numpy()
        truth = one.mask.double().numpy()
        told = {"MSE": float(np.square(heat - truth).mean())}
        if 0 < truth.sum() < truth.size:
            told |= {name: figure(heat, truth) for name, (figure, _) in FIGURES.items()}
            told["mIoU"] = mean_iou(heat, truth, THRESHOLD)
        elif truth.sum() == 0:
            told["MSE of sound images"] = told["MSE"]
        for name, value in told.items():
            values[name].append(value)
            sources[name].append(one.source)
    return {name: vars(mean_interval(row, clusters=sources[name])) for name, row in values.items() if row}


@dataclass(frozen=True)
class FlawMapConfig:
    """Learn where images are flawed, from planted flaws and from annotators' marks."""

    out: Path
    """Folder of the flaw map."""
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Runs with votes that carry marks; none for planted flaws alone."""
    seed: int = 0
    """Of the pixels that are learned from."""


def train_map(config: FlawMapConfig) -> dict[str, Any]:
    """Carry out ``pixeval reward flaw-map``; returns the figures on planted flaws in images that were not trained on.

    Raises:
        InputError: a run that is none, or marks on samples that are in none of the runs.
    """
    marked = marked_examples([Run.open(path) for path in config.runs])
    found = fit_map([*planted_examples("tune", (2, 3, 4)), *marked], config.seed, progress=True)
    found.save(config.out)
    figures = localisation(found, planted_examples("report"))
    told = {"out": str(config.out), "marked_images": len(marked), "figures": figures}
    (config.out / "figures.json").write_text(json.dumps(told, indent=1) + "\n")
    return told
