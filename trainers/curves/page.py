"""The tables of ``docs/experiments/training_curves.md``, in Markdown."""

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np

from pixeval.stats.interval import Interval
from trainers.curves.compare import DETAIL, Compared
from trainers.curves.points import BETAS, Point
from trainers.held_out import FRACTIONS

SCALED = {
    "blur_flaw": ("metrics", 1000.0, 0),
    "noise_flaw": ("metrics", 1000.0, 2),
    "ringing_flaw": ("metrics", 1000.0, 1),
    "colour_bleeding_flaw": ("metrics", 1000.0, 1),
    "grid_flaw": ("metrics", 1000.0, 1),
    "cpbd": ("metrics", 1000.0, 0),
    "clip_score": ("metrics", 1.0, 1),
    "coarse": ("bands", 10.0, 2),
    "fine": ("bands", 10.0, 2),
    "finest": ("bands", 10.0, 2),
}
"""Values of images: their group, the factor that they are shown with, and the digits. Bands in dB."""


def tables(compared: Compared, points: Sequence[Point]) -> str:
    """Every table for which there are figures."""
    parts = chain(
        _ratios(compared),
        *(_errors(compared, points, backbone) for backbone in ("unet", "dit")),
        *(_noise(compared, points, backbone) for backbone in ("unet", "dit")),
        _pairs(compared, points),
        *(_images(compared, points, backbone) for backbone in ("unet", "dit")),
    )
    return "\n".join(parts) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _head(title: str, cells: Sequence[str]) -> list[str]:
    return [f"\n{title}\n", _row(cells), _row(["---"] * len(cells))]


def told(one: Interval, digits: int = 1) -> str:
    """``-3.1 (-4.0 to -2.2)``, with true minus signs."""
    if one.low is None or one.high is None:
        text = f"{one.value:+.{digits}f}"
    else:
        text = f"{one.value:+.{digits}f} ({one.low:+.{digits}f} to {one.high:+.{digits}f})"
    return text.replace("-", "−")


def _name(point: Point) -> str:
    return f"{point.backbone}/{point.trainer}/{point.name}"


def _measured(compared: Compared, points: Sequence[Point], backbone: str) -> list[Point]:
    wanted = [point for point in points if point.trainer == "sft" and point.backbone == backbone]
    return [point for point in wanted if compared.seeds(_name(point))]


def _ratios(compared: Compared) -> Iterator[str]:
    yield from _head("Gradient ratio at a weight of 1, untrained", ["model", "(2)", "(8)", "control"])
    for backbone in ("unet", "dit"):
        if f"{backbone}/base" in compared.found:
            found = compared.found[f"{backbone}/base"]["ratio"]
            yield _row([backbone, *(f"{found[name]:.3f}" for name in ("pixel", "x0", "control"))])


def _errors(compared: Compared, points: Sequence[Point], backbone: str) -> Iterator[str]:
    latent, control = f"{backbone}/sft/latent", f"{backbone}/sft/control balance"
    if compared.seeds(latent):
        whole = [told(compared.change(latent, f"{backbone}/base", e)) for e in ("latent_error", "pixel_error", DETAIL)]
        yield f"\n{backbone}, latent only against the untrained model: {', '.join(whole)}"
    cells = [
        "point",
        "λ",
        "latent (1)",
        "pixel (2)",
        "its detail",
        "(2), each seed",
        "(2) against control",
        "each seed",
    ]
    yield from _head(f"{backbone}: held-out errors against latent only, %", cells)
    for point in _measured(compared, points, backbone):
        name, found = _name(point), []
        weights = [one["weight"] for one in compared.seeds(name) if one["weight"] is not None]
        for other, errors in ((latent, ("latent_error", "pixel_error", DETAIL)), (control, ("pixel_error",))):
            known = name != other and compared.seeds(other)
            found += [told(compared.change(name, other, error)) if known else "" for error in errors]
            each = compared.changes(name, other, "pixel_error") if known else []
            found.append(", ".join(f"{one:+.1f}".replace("-", "−") for one in each))
        yield _row([point.name, f"{np.mean(weights):.3g}" if weights else "", *found])


def _noise(compared: Compared, points: Sequence[Point], backbone: str) -> Iterator[str]:
    for kind in ("latent", "pixel"):
        errors = [f"{kind}_error_t{round(100 * fraction)}" for fraction in FRACTIONS]
        yield from _head(f"{backbone}: {kind} error × 1000 by noise level", ["point", *(str(f) for f in FRACTIONS)])
        names = {"untrained": f"{backbone}/base"} if f"{backbone}/base" in compared.found else {}
        names |= {point.name: _name(point) for point in _measured(compared, points, backbone)}
        for label, name in names.items():
            yield _row([label, *(f"{1000 * compared.mean(name, error):.2f}" for error in errors)])


def _pairs(compared: Compared, points: Sequence[Point]) -> Iterator[str]:
    base = "unet/base/pairs"
    for kind in ("latent", "pixel"):
        cells = [
            "point",
            "seeds",
            "loser's error larger",
            "gap grew",
            "gap, %",
            "winner's error, %",
            "loser's error, %",
        ]
        yield from _head(f"unet, pairs: {kind} errors", cells)
        if base in compared.found:
            (winner,), (loser,) = (compared.rows(base, f"{kind}_{side}_error") for side in ("winner", "loser"))
            right = np.mean([b > a for a, b in zip(winner, loser, strict=True)])
            yield _row(["untrained", "", f"{100 * right:.0f} %", "", "", "", ""])
        for point in points:
            name = _name(point)
            if point.trainer in BETAS and compared.seeds(name):
                shares = [f"{100 * one.value:.0f} %" for one in compared.accuracy(name, base, kind)]
                sides = [told(compared.change(name, base, f"{kind}_{side}_error")) for side in ("winner", "loser")]
                cells = [f"{point.trainer} {point.name}", str(len(compared.seeds(name))), *shares]
                yield _row([*cells, told(compared.gap(name, base, kind)), *sides])


def _images(compared: Compared, points: Sequence[Point], backbone: str) -> Iterator[str]:
    made = [point for point in _measured(compared, points, backbone) if compared.has_images(_name(point))]
    for other in (f"{backbone}/sft/latent", f"{backbone}/sft/control balance"):
        if not compared.has_images(other):
            continue
        titles = [f"{name}{' × 1000' * (factor == 1000)}" for name, (_, factor, _) in SCALED.items()]
        yield from _head(f"images of {backbone}, difference from {other}", ["point", *titles])
        for point in (f"{backbone}/base", *(_name(point) for point in made)):
            if point != other:
                found = [
                    told(compared.images(point, other, group, value).scaled(factor, 0), digits)
                    for value, (group, factor, digits) in SCALED.items()
                ]
                yield _row([point.split("/")[-1], *found])
