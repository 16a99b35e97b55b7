"""Reliability diagrams: predicted probability against the share that went as predicted, with intervals."""

from collections.abc import Mapping
from pathlib import Path

from reward_models.calibrate import Reliability

COLOURS = {"raw": "#9aa3ad", "temperature": "#1b64a8", "isotonic": "#d9822b", "lapses": "#2e8b57"}


def draw_reliability(curves: Mapping[str, Reliability], file: Path) -> None:
    """Write an SVG (or PNG, by the ending): one line for each calibration, the diagonal is a perfect one."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.plot([0.5, 1], [0.5, 1], color="#566069", linewidth=1, linestyle=":")
    for name, curve in curves.items():
        x = [one.confidence for one in curve.bins]
        y = [one.share.value for one in curve.bins]
        low, high = [one.share.low for one in curve.bins], [one.share.high for one in curve.bins]
        down = [0.0 if bound is None else value - bound for value, bound in zip(y, low, strict=True)]
        up = [0.0 if bound is None else bound - value for value, bound in zip(y, high, strict=True)]
        label = f"{name}: ECE {curve.ece.value:.3f}"
        axes.errorbar(
            x, y, yerr=[down, up], color=COLOURS.get(name), marker="o", markersize=4, linewidth=1, label=label
        )
    axes.set_xlim(0.48, 1.02)
    axes.set_xlabel("predicted probability that the preferred image wins")
    axes.set_ylabel("share of votes by which it did")
    axes.legend(frameon=False)
    # without a date and with a salt of its own, the same figures give the same bytes
    with rc_context({"svg.hashsalt": "pixeval"}):
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
