"""Trains every point and looks at what came of it; what was measured is kept in ``numbers.json`` and left out later."""

import json
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from pixeval.images import write_png
from pixeval.runs import Run
from trainers.curves.looks import Judge, band_levels, generate, metric_values, through_vae
from trainers.curves.material import crisp, held_out_icons, tuning_icons, write_captioned, write_pairs
from trainers.curves.points import X0, Point, Study, all_points
from trainers.data import captioned_latents, paired_latents
from trainers.families.detect import load
from trainers.keeping import checkpoint_path
from trainers.preference import PreferenceConfig, train_preference
from trainers.sft import SftConfig, train_sft
from trainers.tables import DatasetConfig

Figures = dict[str, Any]
SHOWN = 8
"""Images of the first seed that are kept, side by side."""


class Measurement:
    """The figures in ``out/numbers.json``, and what is needed to measure those that are missing.

    Args:
        out: folder; the same one again goes on where it was.
        study: how much is measured; the same as before.
    """

    def __init__(self, out: Path, study: Study) -> None:
        self.out, self.study = out, study
        self.file = out / "numbers.json"
        self.found: Figures = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.icons = crisp(held_out_icons(study.held_out))
        self._judges: dict[tuple[str, bool], Judge] = {}
        out.mkdir(parents=True, exist_ok=True)
        if not (out / "data").exists():
            partial = out / "data.partial"
            shutil.rmtree(partial, ignore_errors=True)
            write_captioned(crisp(tuning_icons(study.icons)), partial / "sft")
            write_captioned(self.icons, partial / "sft-held-out")
            write_pairs(tuning_icons(study.icons), partial / "pairs")
            write_pairs(held_out_icons(study.held_out_pairs), partial / "pairs-held-out")
            os.replace(partial, out / "data")

    def measure(self, points: Iterable[Point]) -> Figures:
        """All figures of these points, seed by seed: a stopped measurement has whole seeds."""
        points = list(points)
        for seed in range(self.study.seeds):
            for point in points:
                self._of_base(point, seed)
                if point.key(seed) not in self.found:
                    self._keep(point.key(seed), self._of_point(point, seed))
        return self.found

    def _keep(self, key: str, figures: Any) -> None:
        self.found[key] = figures
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps(self.found, indent=1) + "\n")
        os.replace(partial, self.file)
        print(key, flush=True)

    def _judge(self, backbone: str, pairs: bool) -> Judge:
        if (backbone, pairs) not in self._judges:
            model = load(self.study.models[backbone])
            read = paired_latents if pairs else captioned_latents
            source = self.out / "data" / ("pairs-held-out" if pairs else "sft-held-out")
            data = read(model, source, model.resolution, None, self._dataset)
            self._judges[backbone, pairs] = Judge(model, data)
        return self._judges[backbone, pairs]

    @property
    def _dataset(self) -> DatasetConfig:
        return DatasetConfig(cache=self.out / "cache")

    def _of_base(self, point: Point, seed: int) -> None:
        """What points like this are compared with: the untrained model, and the held-out icons themselves."""
        pairs = point.trainer != "sft"
        key = f"{point.backbone}/base{'/pairs' if pairs else ''}"
        if key not in self.found:
            judge = self._judge(point.backbone, pairs)
            figures: Figures = {"errors": judge.errors(judge.model.denoiser)}
            if not pairs:
                terms: dict[str, Figures] = {"pixel": {}, "x0": {"pixel": X0}, "control": {"objective": "control"}}
                figures["ratio"] = {name: judge.ratio(**settings) for name, settings in terms.items()}
                side = judge.model.resolution[0]
                images = torch.stack([icon.pixels for icon in self.icons])
                images = torch.nn.functional.interpolate(images, size=(side, side), mode="area")
                figures["icons"] = self._of_images(images)
                figures["icons through the VAE"] = self._of_images(through_vae(judge.model, images))
            self._keep(key, figures)
        if point.generate and f"{point.backbone}/base/{seed}" not in self.found:
            self._keep(
                f"{point.backbone}/base/{seed}", self._generated(self.study.models[point.backbone], seed, "base")
            )

    def _of_images(self, images: torch.Tensor) -> Figures:
        return {"bands": band_levels(images), "metrics": metric_values(images, self._captions)}

    @property
    def _captions(self) -> list[str]:
        return [icon.caption for icon in self.icons]

    def _generated(self, model: Path, seed: int, name: str) -> Figures:
        seeds = [seed * len(self.icons) + i for i in range(len(self.icons))]
        images = generate(model, self._captions, seeds, self.study.sampler_steps)
        if seed == 0:
            write_png(torch.cat(list(images[:SHOWN]), -1), self.out / "images" / f"{name}.png")
        return self._of_images(images)

    def _of_point(self, point: Point, seed: int) -> Figures:
        sft = point.trainer == "sft"
        begun = time.monotonic()
        run = train_sft(self._sft(point, seed)) if sft else train_preference(self._pairs(point, seed))
        seconds = time.monotonic() - begun
        checkpoint = checkpoint_path(run, self._steps(point))
        figures: Figures = {
            "seconds": seconds,
            "weight": Run(run.path).info.get("balanced_pixel_weight", point.settings.get("pixel_weight")),
            "errors": self._judge(point.backbone, not sft).of_checkpoint(checkpoint),
        }
        if point.generate:
            figures |= self._generated(checkpoint, seed, f"{point.backbone} {point.name}")
        shutil.rmtree(run.path)  # some 100 MB
        return figures

    def _steps(self, point: Point) -> int:
        return round(self.study.steps * point.longer * (1 if point.trainer == "sft" else 0.8))

    def _common(self, point: Point, seed: int, data: str) -> dict[str, Any]:
        steps = self._steps(point)
        return {
            "model": self.study.models[point.backbone],
            "data": self.out / "data" / data,
            "out": self.out / "runs" / point.key(seed).replace("/", "-").replace(" ", "_"),
            "dataset": self._dataset,
            "steps": steps,
            "batch_size": self.study.batch_size,
            "learning_rate": self.study.learning_rate if point.trainer == "sft" else self.study.pair_learning_rate,
            "warmup": max(1, steps // 10),
            "seed": seed,
            "checkpoint_every": steps,
            "device": "cpu",
            "tracker": "none",
            "self_test": False,
            "tripwires": False,
            **point.settings,
        }

    def _sft(self, point: Point, seed: int) -> SftConfig:
        return SftConfig(**self._common(point, seed, "sft"))

    def _pairs(self, point: Point, seed: int) -> PreferenceConfig:
        assert point.trainer != "sft"
        return PreferenceConfig(method=point.trainer, **self._common(point, seed, "pairs"))


def measure(out: Path, study: Study | None = None, points: Iterable[Point] | None = None) -> Figures:
    """All figures of the page; a measurement that was stopped goes on.

    Args:
        out: folder for ``numbers.json``, data and what is being trained.
        study: how much is measured; None for what the page has.
        points: None for all.
    """
    return Measurement(out, study or Study()).measure(all_points() if points is None else points)
