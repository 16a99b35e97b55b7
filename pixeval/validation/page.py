"""What ``pixeval validate`` found, as Markdown tables and pictures."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from pixeval.catalog import find, load
from pixeval.errors import InputError
from pixeval.images import write_png
from pixeval.scoring.heatmap_overlay import outlined, overlay
from pixeval.validation.clean_images import CleanImage
from pixeval.validation.planted_flaws import MEDIUM, PLANTED, VISIBLE, plant

BEGIN, END = "<!-- figures: begin, made by pixeval validate --page -->", "<!-- figures: end -->"
TARGET = 0.95
"""AUC at medium severity that a weight-free detector should reach on its own flaw."""


@dataclass(frozen=True)
class Tables:
    """The result of :func:`pixeval.validation.validate.validate` as Markdown."""

    found: dict[str, Any]

    def markdown(self) -> str:
        """All tables, without pictures."""
        if self.found["against"] == "people":
            return self._people()
        blocks = [self._images()]
        if self.found["detectors"]:
            blocks += [self._detection(), self._kinds(), self._places()]
        blocks.append(self._cross_talk())
        blocks += [self._worst()] if self.found["images"].get("same") else []
        return "\n\n".join(blocks)

    def _images(self) -> str:
        images = self.found["images"]
        report = ", ".join(
            f"{n} {kind}s" if kind != "generated" else f"{n} generated" for kind, n in images["report"].items()
        )
        if images.get("same"):
            return f"Thresholds chosen, and everything measured, on the same images: {report}."
        return f"Thresholds chosen on {images['tune']} images; everything below measured on others: {report}."

    def _detection(self) -> str:
        rows = []
        for name, d in self.found["detectors"].items():
            verdict = "" if d["auc"]["3"]["value"] >= TARGET else " **below target**"
            aucs = " | ".join(f"{d['auc'][level]['value']:.2f}" for level in ("1", "2", "4", "5"))
            rows.append(
                f"| `{name}` | {d['tau']['n']} | {_shown(d['tau'])} | {_shown(d['auc']['3'])}{verdict} | {aucs} "
                f"| {d['value_threshold']:.2g} | {_shown(d['found'])} | {_shown(d['false_alarms'])} |"
            )
        head = [
            "| detector | n | Kendall τ | AUC medium | level 1 | 2 | 4 | 5 | threshold | found | false alarms |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        return "\n".join(["### Detection of the own flaw", "", *head, *rows])

    def _kinds(self) -> str:
        detectors = self.found["detectors"]
        kinds = list(dict.fromkeys(kind for d in detectors.values() for kind in d["auc_by_kind"]))
        head = [f"| detector | {' | '.join(kinds)} |", "|---" * (len(kinds) + 1) + "|"]
        rows = [
            f"| `{name}` | "
            + " | ".join(f"{d['auc_by_kind'][k]:.2f}" if k in d["auc_by_kind"] else "" for k in kinds)
            + " |"
            for name, d in detectors.items()
        ]
        return "\n".join(["### AUC at medium severity by kind of image", "", *head, *rows])

    def _places(self) -> str:
        names = ["CC", "KLD", "SIM", "NSS", "AUC-Judd", "mIoU"]
        head = [f"| detector | {' | '.join(names)} | heat threshold |", "|---" * (len(names) + 2) + "|"]
        rows = [
            f"| `{name}` | " + " | ".join(_shown(d["localisation"][n]) for n in names) + f" | {d['heat_threshold']:g} |"
            for name, d in self.found["detectors"].items()
            if "localisation" in d
        ]
        return "\n".join(["### Heat maps against the masks, at medium severity", "", *head, *rows])

    def _cross_talk(self) -> str:
        table = self.found["cross_talk"]
        judges = list(next(iter(table.values())))
        head = [
            f"| planted | {' | '.join(j.removesuffix('_flaw') for j in judges)} |",
            "|---" * (len(judges) + 1) + "|",
        ]
        rows = []
        for flaw, row in table.items():
            cells = [f"**{row[j]:.2f}**" if j == f"{flaw}_flaw" else f"{row[j]:.2f}" for j in judges]
            rows.append(f"| {flaw} | {' | '.join(cells)} |")
        return "\n".join(
            ["### Cross-talk: AUC of every detector on every flaw, medium severity", "", *head, *rows, *self._summary()]
        )

    def _summary(self) -> list[str]:
        """How far the diagonal is from 1 and the rest from one half."""
        own, other = cross_talk_distances(self.found)
        if not own or not other:
            return []
        return [
            "",
            f"Mean distance of the diagonal from 1: {np.mean(own):.3f}; mean distance of the rest from 0.5: "
            f"{np.mean(other):.3f} (median {np.median(other):.3f}). "
            f"{sum(o >= TARGET for o in [1 - d for d in own])} of {len(own)} detectors reach {TARGET}.",
        ]

    def _worst(self) -> str:
        """Where to look when a detector is worked on."""
        head = ["| detector | clean images with the highest values | flawed ones with the lowest |", "|---|---|---|"]
        rows = []
        for name, d in self.found["detectors"].items():
            clean, flawed = (
                ", ".join(f"{image} {value:.2g}" for image, value in d["worst"][side]) for side in ("clean", "flawed")
            )
            rows.append(f"| `{name}` | {clean} | {flawed} |")
        return "\n".join(["### Judged worst", "", *head, *rows])

    def _people(self) -> str:
        rows = []
        for name, figure in self.found["figures"].items():
            if figure["value"] is None:
                rows.append(f"| {name} | | | {figure['reason']} |")
                continue
            note = "".join(f"{key} {figure[key]:.3g}" for key in ("threshold", "epsilon") if key in figure)
            rows.append(f"| {name} | {_shown(figure)} | {figure['n']} | {note} |")
        head = ["| figure | value and 95 % interval | n | |", "|---|---|---|---|"]
        without = sum(self.found["without_value"].values())
        lines = [
            f"`{self.found['metric']}` against the {self.found['labels']} of `{self.found['table']}`",
            "",
            *head,
            *rows,
        ]
        return "\n".join([*lines, *(["", f"{without} left out without a value."] if without else [])])


def cross_talk_distances(found: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Distances of the diagonal from 1 and of every other cell from 0.5, over flaws that have a detector."""
    own, other = [], []
    for flaw, row in found["cross_talk"].items():
        for judge, value in row.items():
            if judge == f"{flaw}_flaw":
                own.append(1 - value)
            else:
                other.append(abs(value - 0.5))
    return own, other


def _shown(figure: dict[str, Any]) -> str:
    if figure["low"] is None:
        return f"{figure['value']:.2f}"
    # adding zero turns a negative zero from rounding into zero
    value, low, high = (round(figure[key], 2) + 0.0 for key in ("value", "low", "high"))
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def with_tables(page: Path, tables: str) -> str:
    """The page with everything between its two marks replaced.

    Raises:
        InputError: no such page, or it lacks the marks.
    """
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"page {page} cannot be read: {error.strerror or error}") from error
    before, found, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise InputError(f"{page} lacks the marks {BEGIN} and {END}; put both into it, in this order")
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}"


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file atomically."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the name of a file in it")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    os.replace(partial, path)


def draw_cross_talk(found: dict[str, Any], path: Path) -> None:
    """The cross-talk matrix as a picture: red above one half, blue below, own flaws framed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    table = found["cross_talk"]
    flaws, judges = list(table), list(next(iter(table.values())))
    values = np.array([[table[flaw][judge] for judge in judges] for flaw in flaws])
    figure = Figure(figsize=(2.5 + 0.62 * len(judges), 2.0 + 0.42 * len(flaws)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    picture = axes.imshow(values, cmap="RdBu_r", vmin=0, vmax=1, aspect="auto")
    for row, flaw in enumerate(flaws):
        for column, judge in enumerate(judges):
            value = values[row, column]
            colour = "white" if abs(value - 0.5) > 0.33 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
            if judge == f"{flaw}_flaw":
                axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, linewidth=2.0, edgecolor="black"))
    names = [judge.removesuffix("_flaw").replace("_", " ") for judge in judges]
    axes.set_xticks(range(len(judges)), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(flaws)), [flaw.replace("_", " ") for flaw in flaws])
    axes.set_xlabel("detector")
    axes.set_ylabel("planted flaw")
    axes.set_title("AUC at medium severity (0.5: the detector does not react)", fontsize=10)
    figure.colorbar(picture, ax=axes, shrink=0.8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    write_whole(path, buffer.getvalue())


def draw_examples(images: Sequence[CleanImage], names: Sequence[str], path: Path) -> None:
    """Each planted flaw, in a photograph where one can show it: as it is, and with the heat laid over it.

    The border of the planted region is drawn in green.
    """
    tiles = []
    for number, flaw in enumerate(flaw for flaw in PLANTED if flaw.detector in names):
        start = number * 3 % len(images)
        order = [*images[start:], *images[:start]]
        first = sorted(order, key=lambda image: image.kind != "photograph")
        for image in first:
            planted = plant(flaw, image.pixels, MEDIUM, image.name)
            if planted.change >= VISIBLE:
                with torch.no_grad():
                    heat = load(find(flaw.detector)).heatmap(planted.pixels[None])[0]
                laid = outlined(overlay(planted.pixels, heat, find(flaw.detector).full_heat), planted.mask)
                tiles.append(_named(_boxed(torch.cat((planted.pixels, laid), 2)), flaw.name.replace("_", " ")))
                break
    if not tiles:
        return
    tiles += [torch.ones_like(tiles[0])] * (-len(tiles) % 3)
    rows = [torch.cat(tiles[k : k + 3], 2) for k in range(0, len(tiles), 3)]
    write_png(torch.cat(rows, 1), path)


def _boxed(pixels: Tensor) -> Tensor:
    """On a white tile of 328 x 168, reduced where it is larger."""
    height, width = pixels.shape[-2:]
    factor = min(1.0, 160 / height, 320 / width)
    if factor < 1:
        size = [max(1, int(height * factor)), max(1, int(width * factor))]
        pixels = F.interpolate(pixels[None], size, mode="bilinear", antialias=True)[0].clamp(0, 1)
    height, width = pixels.shape[-2:]
    return F.pad(pixels, (4, 324 - width, 4, 164 - height), value=1.0)


def _named(tile: Tensor, name: str) -> Tensor:
    """With the name of the flaw on a strip above."""
    strip = Image.new("L", (tile.shape[2], 20), 255)
    ImageDraw.Draw(strip).text((5, 3), name, fill=0, font=ImageFont.load_default(size=13))
    above = torch.from_numpy(np.array(strip)).float().div(255).expand(3, -1, -1)
    return torch.cat((above, tile), 1)
