"""``python -m trainers.curves.restoration OUT``: one-step image to image, with and without the detail preserver.

Two tasks are made from the bundled icons: a blurred icon to the icon, and an icon to its edges (dense prediction).
What was measured is kept in ``OUT/numbers.json``, so a stopped measurement goes on.
"""

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pixeval.images import read_image, write_png
from pixeval.metrics.filters import luma, sobel
from pixeval.stats.bootstrap import mean_interval
from pixeval.stats.interval import Interval
from pixeval.zoo import BUNDLED
from trainers.curves.draw import draw_sheet
from trainers.curves.material import Icon, held_out_icons, tuning_icons
from trainers.curves.page import told
from trainers.families.detect import load
from trainers.framing import fit_image
from trainers.held_out import band_errors
from trainers.image_to_image import RECONSTRUCTION, ImageToImageConfig, blurred, train_image_to_image, translate
from trainers.keeping import checkpoint_path
from trainers.latent_diffusion import LatentDiffusion

Figures = dict[str, Any]
BLUR = 4.0
"""Deviation of the blur in pixels."""
STEEP = 4.0
"""An edge is black from a quarter of the way from black to white per pixel."""
SHOWN = 6
"""Held-out icons in the picture."""
PARTS = 4
"""In which the held-out icons pass a model."""
ARMS = {"task alone": False, "with the preserver": True}
"""Whether the detail preserver is trained."""
SHEET = (
    ("deblurring input", "deblurring:\ngiven"),
    ("deblurring task alone", "task alone"),
    ("deblurring with the preserver", "with the\npreserver"),
    ("deblurring target", "deblurring:\nwanted"),
    ("edges input", "edges:\ngiven"),
    ("edges task alone", "task alone"),
    ("edges with the preserver", "with the\npreserver"),
    ("edges target", "edges:\nwanted"),
)
"""Rows of the picture, and their labels."""


@dataclass(frozen=True)
class Study:
    """How much is measured; the defaults are those of the page."""

    model: Path = BUNDLED["zoo:unet"]
    seeds: int = 2
    steps: int = 150
    batch_size: int = 8
    learning_rate: float = 2e-4
    icons: int = 448
    """Trained on."""
    held_out: int = 64


def edges(images: Tensor) -> Tensor:
    """Dark lines where luma changes, on white; N x 3 x H x W in [0, 1] -> the same shape."""
    down, across = sobel(luma(images))
    return (1 - STEEP * torch.hypot(down, across)).clamp(0, 1).expand_as(images)


TASKS: Mapping[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "deblurring": lambda images: (blurred(images, BLUR), images),
    "edges": lambda images: (images, edges(images)),
}
"""Icons, N x 3 x H x W in [0, 1] -> inputs and targets."""


class Measurement:
    """The figures in ``out/numbers.json``, and what is needed to measure those that are missing.

    Args:
        out: folder; the same one again goes on where it was.
        study: how much is measured; the same as before.
    """

    def __init__(self, out: Path, study: Study) -> None:
        self.out, self.study, self.file = out, study, out / "numbers.json"
        self.found: Figures = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.held_out = held_out_icons(study.held_out)
        out.mkdir(parents=True, exist_ok=True)
        if not (out / "data").exists():
            partial, icons = out / "data.partial", tuning_icons(study.icons)
            shutil.rmtree(partial, ignore_errors=True)
            for task in TASKS:
                _write(task, icons, partial / task)
                _write(task, self.held_out, partial / f"{task}-held-out")
            os.replace(partial, out / "data")

    def measure(self, trainings: int | None = None) -> Figures:
        """All figures, or those of the next ``trainings`` that are missing; seed by seed."""
        keys = [(t, arm, seed) for seed in range(self.study.seeds) for t in TASKS for arm in ARMS]
        missing = [key for key in keys if "/".join(map(str, key)) not in self.found]
        for task, arm, seed in missing[:trainings]:
            if f"{task}/input" not in self.found:
                self._keep(self._bounds(task))
            self._keep({f"{task}/{arm}/{seed}": self._trained(task, arm, seed)})
        return self.found

    def _keep(self, figures: Figures) -> None:
        self.found |= figures
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps(self.found, indent=1) + "\n")
        os.replace(partial, self.file)
        print(*figures, sep="\n", flush=True)

    def _side(self, model: LatentDiffusion, task: str, side: str) -> Tensor:
        """The held-out inputs or targets in [-1, 1]."""
        files = [self.out / "data" / f"{task}-held-out" / side / f"{icon.name}.png" for icon in self.held_out]
        return torch.stack([fit_image(read_image(file), model.resolution) for file in files])

    @torch.no_grad()
    def _bounds(self, task: str) -> Figures:
        """The inputs as they are, and the targets after the VAE, which is the most that can be had."""
        model = load(self.study.model)
        given, wanted = (self._side(model, task, side) for side in ("input", "target"))
        passed = torch.cat([model.decode(model.encode(part).mean) for part in wanted.chunk(PARTS)])
        self._show(task, "input", given)
        self._show(task, "target", wanted)
        return {
            f"{task}/input": _compared(given, wanted),
            f"{task}/target through the VAE": _compared(passed, wanted),
        }

    @torch.no_grad()
    def _trained(self, task: str, arm: str, seed: int) -> Figures:
        study = self.study
        config = ImageToImageConfig(
            model=study.model, data=self.out / "data" / task, out=self.out / "run", objective="latent", seed=seed,
            steps=study.steps, batch_size=study.batch_size, learning_rate=study.learning_rate,
            warmup=max(1, study.steps // 10), checkpoint_every=study.steps, detail_preserver=ARMS[arm], device="cpu",
            tracker="none", self_test=False, tripwires=False,
        )  # fmt: skip
        begun = time.monotonic()
        with torch.enable_grad():
            run = train_image_to_image(config)
        seconds = time.monotonic() - begun
        model = load(checkpoint_path(run, study.steps))
        given, wanted = (self._side(model, task, side) for side in ("input", "target"))
        made = torch.cat([translate(model, part) for part in given.chunk(PARTS)])
        if seed == 0:
            self._show(task, arm, made)
        figures = {"seconds": seconds, **_compared(made, wanted)}
        if ARMS[arm]:
            again = torch.cat([translate(model, part, RECONSTRUCTION) for part in given.chunk(PARTS)])
            figures["again"] = _compared(again, given)
        shutil.rmtree(run.path)  # some 100 MB
        return figures

    def _show(self, task: str, row: str, images: Tensor) -> None:
        chosen = [images[i * len(images) // SHOWN] / 2 + 0.5 for i in range(SHOWN)]
        write_png(torch.cat(chosen, -1).clamp(0, 1), self.out / "images" / f"{task} {row}.png")


def _write(task: str, icons: Sequence[Icon], folder: Path) -> None:
    given, wanted = TASKS[task](torch.stack([icon.pixels for icon in icons]))
    for icon, first, second in zip(icons, given, wanted, strict=True):
        write_png(first, folder / "input" / f"{icon.name}.png")
        write_png(second, folder / "target" / f"{icon.name}.png")


def _compared(made: Tensor, wanted: Tensor) -> Figures:
    """Of every image: PSNR, and the mean squared error x 1000 of what is finer than 1/8 cycle per pixel."""
    difference = made.clamp(-1, 1) / 2 - wanted / 2
    parts = band_errors(difference)
    psnr = -10 * difference.square().mean((1, 2, 3)).log10()
    return {"psnr": psnr.tolist(), "detail": (1000 * (parts["fine"] + parts["finest"])).tolist()}


def table(found: Figures, study: Study) -> str:
    """The page's table in Markdown; 95 % bootstrap intervals over scenes of the mean over seeds."""
    scenes = [icon.scene for icon in held_out_icons(study.held_out)]

    def mean(values: Sequence[float]) -> Interval:
        return mean_interval(values, clusters=scenes)

    lines = ["| task | | PSNR, dB | error of detail × 1000 | PSNR, each seed |", "|---|---|---|---|---|"]
    for task in TASKS:
        means: dict[str, dict[str, list[float]]] = {}
        for row, figures in _rows(found, study, task).items():
            means[row] = {n: torch.tensor([one[n] for one in figures]).mean(0).tolist() for n in ("psnr", "detail")}
            cells = [told(mean(means[row]["psnr"])), told(mean(means[row]["detail"]), 2)]
            each = ", ".join(
                f"{torch.tensor(one['psnr']).mean():.2f}" for one in figures[: len(figures) * (row in ARMS)]
            )
            lines.append(f"| {task} | {row} | {' | '.join(cells).replace('+', '')} | {each} |")
        if set(ARMS) <= set(means):
            alone, kept = (means[arm] for arm in ARMS)
            pairs = [zip(alone[name], kept[name], strict=True) for name in ("psnr", "detail")]
            changes = [told(mean([after - before for before, after in both]), 2) for both in pairs]
            lines.append(f"| {task} | what the preserver changes | {' | '.join(changes)} | |")
    return "\n".join(lines) + "\n"


def _rows(found: Figures, study: Study, task: str) -> dict[str, list[Figures]]:
    """The lines of a task for which there are figures, each for every seed."""
    trained = {arm: [f"{task}/{arm}/{seed}" for seed in range(study.seeds)] for arm in ARMS}
    arms = {arm: [found[key] for key in keys if key in found] for arm, keys in trained.items()}
    again = [one["again"] for one in arms["with the preserver"]]
    bounds = {row: [found[f"{task}/{row}"]] for row in ("input", "target through the VAE") if f"{task}/{row}" in found}
    rows = {**arms, "its second task: the input again": again, **bounds}
    return {row: figures for row, figures in rows.items() if figures}


def write_page(found: Figures, study: Study, out: Path) -> None:
    """``tables.md``, and the picture of what has been measured."""
    (out / "tables.md").write_text(table(found, study))
    rows = [(label, out / "images" / f"{name}.png") for name, label in SHEET]
    draw_sheet(rows, SHOWN, out / "training_restoration.webp")


def main() -> None:
    """Measure what is missing, and write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for numbers.json, what is being trained, and the picture")
    parser.add_argument("--trainings", type=int, help="stop after so many trainings; all by default")
    chosen = parser.parse_args()
    study = Study()
    write_page(Measurement(chosen.out, study).measure(chosen.trainings), study, chosen.out)


if __name__ == "__main__":
    main()
