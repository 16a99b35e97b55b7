"""The curves of ``docs/training.md`` and its page, as SVG."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixeval.stats.interval import Interval
from trainers.curves.compare import DETAIL, Compared
from trainers.curves.points import BETAS, CROPS
from trainers.held_out import BANDS, FRACTIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GREY = "#1d2328", "#9aa3ad"
BLUE, ORANGE, GREEN, RED = "#1b64a8", "#d9822b", "#2f8f5b", "#b3392f"
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "pixeval", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": INK, "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.titlesize": 9.5, "axes.titleweight": "bold", "axes.titlelocation": "left", "legend.frameon": False,
}  # fmt: skip
PANELS = {"latent_error": "latent error (1)", "pixel_error": "pixel error (2)", DETAIL: "its detail, from 1/8 c/px"}
LAMBDAS = {"unet": ("2", "balance", "20", "100"), "dit": ("8", "balance", "80")}
AXIS = "against latent only, %\n(lower is better)"
EQUAL = {"window 64, twice the steps": GREEN, "latent, 4 times the steps": RED}
"""Points of about the compute of whole images."""


def draw(compared: Compared, folder: Path) -> list[Path]:
    """Write the pictures for which there are figures; returns them."""
    pictures: tuple[tuple[str, Callable[[Compared], Figure | None]], ...] = (
        ("training_lambda.svg", draw_lambda),
        ("training_crop.svg", draw_crop),
        ("training_beta.svg", draw_beta),
        ("training_x0.svg", draw_x0),
    )
    from matplotlib import rc_context

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, picture in pictures:
        with rc_context(STYLE):
            figure = picture(compared)
            if figure is not None:
                figure.savefig(folder / name, metadata={"Date": None})
                written.append(folder / name)
    return written


def _figure(width: float, height: float, columns: int, rows: int = 1, **options: Any) -> tuple["Figure", "Any"]:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _bars(axes: "Axes", x: Sequence[float], found: Sequence[Interval], colour: str, **options: Any) -> None:
    """Points with their intervals."""
    y = [one.value for one in found]
    down = [0.0 if one.low is None else one.value - one.low for one in found]
    up = [0.0 if one.high is None else one.high - one.value for one in found]
    style = {"marker": "o", "markersize": 5, "linewidth": 1.4, "elinewidth": 1.4, "capsize": 2.5, "color": colour}
    axes.errorbar(x, y, yerr=[down, up], **{**style, **options})


def _seeds(axes: "Axes", x: Sequence[float], found: Sequence[Sequence[float]], colour: str) -> None:
    """A small open circle for every seed."""
    for place, values in zip(x, found, strict=True):
        axes.plot([place] * len(values), values, "o", markersize=3, color=colour, markerfacecolor="white", alpha=0.8)


def draw_lambda(compared: Compared) -> "Figure | None":
    """Held-out errors from latent only over lambda to pixel only, against latent only."""
    backbones = [name for name in LAMBDAS if compared.seeds(f"{name}/sft/both {LAMBDAS[name][0]}")]
    if not backbones:
        return None
    figure, table = _figure(9.6, 2.9 * len(backbones), len(PANELS), len(backbones))
    for line, backbone in zip(table, backbones, strict=True):
        for axes, (error, title) in zip(line, PANELS.items(), strict=True):
            _lambda_panel(axes, compared, backbone, error)
            axes.set_title(f"{'U-Net' if backbone == 'unet' else 'DiT'}: {title}")
        line[0].set_ylabel(AXIS)
    figure.supxlabel("λ, and below it the gradient of the pixel term over that of the latent term", fontsize=9)
    table[0][0].legend(loc="upper left", fontsize=8)
    return figure


def _lambda_panel(axes: "Axes", compared: Compared, backbone: str, error: str) -> None:
    latent, ratio = f"{backbone}/sft/latent", compared.found[f"{backbone}/base"]["ratio"]
    found = {n: _weight(compared, f"{backbone}/sft/both {n}") for n in LAMBDAS[backbone]}
    inner = sorted((n for n in found if compared.seeds(f"{backbone}/sft/both {n}")), key=lambda name: found[name])
    names = [*(f"both {name}" for name in inner), *(["pixel"] if compared.seeds(f"{backbone}/sft/pixel") else [])]
    labels = ["latent\nonly"]
    labels += [f"{found[n]:.0f}\n{found[n] * ratio['pixel']:.2g}" for n in inner]
    labels += ["pixel\nonly"] * ("pixel" in names)
    points, x = [f"{backbone}/sft/{name}" for name in names], [float(place) for place in range(1, len(names) + 1)]
    _seeds(axes, x, [compared.changes(point, latent, error) for point in points], BLUE)
    _bars(axes, x, [compared.change(point, latent, error) for point in points], BLUE, label="(1) + λ (2)")
    control = f"{backbone}/sft/control balance"
    if compared.seeds(control) and "balance" in inner:
        at = [x[inner.index("balance")] + 0.2]
        _seeds(axes, at, [compared.changes(control, latent, error)], ORANGE)
        changes = [compared.change(control, latent, error)]
        _bars(axes, at, changes, ORANGE, marker="s", linestyle="", label="control: no decoder, balanced")
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.plot([0], [0], "o", markersize=5, color=GREY)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlim(-0.4, len(labels) - 0.6)


def _weight(compared: Compared, point: str) -> float:
    """The second term's weight as it was, the mean over seeds."""
    found = [one["weight"] for one in compared.seeds(point)]
    return sum(found) / len(found) if found else 1.0


def draw_crop(compared: Compared) -> "Figure | None":
    """Held-out errors against the area of the window."""
    latent = "unet/sft/latent"
    names = {f"window {side}": str(side) for side in sorted(CROPS)} | {"both balance": "128"}
    names = {name: label for name, label in names.items() if compared.seeds(f"unet/sft/{name}")}
    if len(names) < 2:
        return None
    figure, table = _figure(9.6, 3.0, len(PANELS))
    for axes, (error, title) in zip(table[0], PANELS.items(), strict=True):
        points, x = [f"unet/sft/{name}" for name in names], [float(place) for place in range(len(names))]
        _seeds(axes, x, [compared.changes(point, latent, error) for point in points], BLUE)
        _bars(axes, x, [compared.change(p, latent, error) for p in points], BLUE, label="equal steps")
        for (name, colour), beside in zip(EQUAL.items(), ("window 64", "both balance"), strict=True):
            if compared.seeds(f"unet/sft/{name}") and beside in names:
                at, point = [list(names).index(beside) + 0.2], f"unet/sft/{name}"
                _seeds(axes, at, [compared.changes(point, latent, error)], colour)
                change = [compared.change(point, latent, error)]
                _bars(axes, at, change, colour, marker="D", linestyle="", label=name)
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.set_xticks(x, list(names.values()))
        axes.set_title(f"U-Net: {title}")
    table[0][0].set_ylabel(AXIS)
    figure.supxlabel("side in pixels of the window that is decoded, of 128", fontsize=9)
    figure.legend(*table[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8)
    return figure


def draw_beta(compared: Compared) -> "Figure | None":
    """What is won, and what it costs the winner, against beta."""
    trainers = [name for name in BETAS if compared.seeds(f"unet/{name}/latent {BETAS[name][1]:g}")]
    if not trainers:
        return None
    figure, table = _figure(9.6, 2.8 * len(trainers), 3, len(trainers))
    names = {"simpo": "SimPO", "dpo": "DPO"}
    arms = {"latent": BLUE, "both": ORANGE}
    for line, trainer in zip(table, trainers, strict=True):
        measured = {(o, b): f"unet/{trainer}/{o} {b:g}" for o in arms for b in BETAS[trainer]}
        for objective, colour in arms.items():
            points = {b: p for (o, b), p in measured.items() if o == objective and compared.seeds(p)}
            label = "latent" if objective == "latent" else "latent + pixel, window 64"
            _beta_line(line, compared, points, colour, label=label)
        middle = BETAS[trainer][1]
        careful = f"unet/{trainer}/latent {middle:g}, loser_safety 0.5"
        if compared.seeds(careful):
            _beta_line(line, compared, {middle: careful}, GREEN, label="latent, loser_safety 0.5", marker="D")
        titles = ("gap of latent errors ↑", "winner's latent error ↓", "winner's pixel error ↓")
        for axes, title in zip(line, titles, strict=True):
            axes.set_xscale("log")
            axes.set_xticks(BETAS[trainer], [f"{beta:g}" for beta in BETAS[trainer]])
            axes.minorticks_off()
            axes.set_title(f"{names[trainer]}: {title}")
            axes.set_xlabel("β")
        line[0].set_ylabel("change by tuning, %")
        line[2].set_yscale("log")
        line[2].set_yticks([10, 30, 100, 300], ["10", "30", "100", "300"])
    table[0][0].legend(loc="upper right", fontsize=8)
    return figure


def _beta_line(
    line: "Sequence[Axes]", compared: Compared, points: Mapping[float, str], colour: str, **options: Any
) -> None:
    """One arm in the three panels: the gap, and the winner's errors."""
    base = "unet/base/pairs"
    betas, names = list(points), list(points.values())
    _bars(line[0], betas, [compared.gap(name, base, "latent") for name in names], colour, **options)
    for axes, kind in zip(line[1:], ("latent", "pixel"), strict=True):
        error = f"{kind}_winner_error"
        _bars(axes, betas, [compared.change(name, base, error) for name in names], colour, **options)


X0_POINTS = {
    "latent": ("latent only", GREY, "-"),
    "both balance": ("latent + pixel (2), balanced", BLUE, "-"),
    "pixel": ("pixel (2) only", BLUE, ":"),
    "x0 both balance": ("latent + x0 (8), balanced", RED, "-"),
    "x0 pixel": ("x0 (8) only", RED, ":"),
}


def draw_x0(compared: Compared) -> "Figure | None":
    """Errors by noise level, and the energy of generated images by frequency, after (2) and after (8)."""
    points = {name: style for name, style in X0_POINTS.items() if compared.seeds(f"unet/sft/{name}")}
    if len(points) < 2:
        return None
    figure, table = _figure(8.2, 3.4, 2)
    left, right = table[0]
    for place, (name, (label, colour, line)) in enumerate(points.items()):
        point = f"unet/sft/{name}"
        errors = [f"latent_error_t{round(100 * fraction)}" for fraction in FRACTIONS]
        changes = [100 * (compared.mean(point, e) / compared.mean("unet/base", e) - 1) for e in errors]
        left.plot(FRACTIONS, changes, marker="o", markersize=4, color=colour, linestyle=line, label=label)
        found = [compared.images(point, "unet/base", "bands", band).scaled(10, 0) for band in BANDS]
        x = [i + 0.13 * (place - (len(points) - 1) / 2) for i in range(len(BANDS))]
        _bars(right, x, found, colour, linestyle="", markerfacecolor="white" if line == ":" else colour)
    wanted = compared.found["unet/base"]["icons through the VAE"]["bands"]
    for i, band in enumerate(BANDS):
        level = 10 * (sum(wanted[band]) / len(wanted[band]) - compared.level("unet/base", "bands", band))
        right.plot(
            [i - 0.4, i + 0.4],
            [level, level],
            color=INK,
            linewidth=1.2,
            label=None if i else "crisp icons through the VAE",
        )
    left.axhline(0, color=GREY, linewidth=0.8)
    right.axhline(0, color=GREY, linewidth=0.8)
    left.set_xlabel("share of noise")
    left.set_ylabel("change by tuning, % (lower is better)")
    left.set_title("held-out latent error")
    right.set_title("energy of generated images")
    right.set_ylabel("dB against the untrained model's")
    limits = ["below 1/16", "to 1/8", "to 1/4", "above"]
    right.set_xticks(range(len(BANDS)), [f"{b}\n{limit}" for b, limit in zip(BANDS, limits, strict=True)])
    right.set_xlabel("cycles per pixel")
    right.legend(fontsize=8)
    left.legend(fontsize=8)
    return figure


COLUMNS = 6
SHEET = {
    "base": "untrained",
    "latent": "latent only",
    "both balance": "latent + (2)",
    "x0 both balance": "latent + (8)",
    "x0 pixel": "(8) only",
}


def draw_samples(images: Path, file: Path) -> None:
    """Generated images of the same captions and noise, a row for every training, as WebP."""
    draw_sheet([(label, images / f"unet {name}.png") for name, label in SHEET.items()], COLUMNS, file)


def draw_sheet(rows: Sequence[tuple[str, Path]], columns: int, file: Path) -> None:
    """Rows of square images with their labels, as WebP; nothing where there are fewer than two.

    Args:
        rows: a label and a file of images side by side, each; files that do not exist are left out.
        columns: images of each that are shown.
        file: what is written.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    rows = [(label, row) for label, row in rows if row.exists()]
    if len(rows) < 2:
        return
    height, labelled = 1 / len(rows), 0.14  # of the picture
    with rc_context(STYLE):
        figure = Figure(figsize=(9.2, 9.2 * (1 - labelled) / columns * len(rows)), dpi=120)
        FigureCanvasAgg(figure)
        for number, (label, row) in enumerate(rows, 1):
            axes = figure.add_axes((labelled, 1 - number * height, 1 - labelled, height))
            with Image.open(row) as image:
                axes.imshow(image.crop((0, 0, columns * image.height, image.height)), interpolation="lanczos")
            axes.set_axis_off()
            figure.text(labelled - 0.01, 1 - (number - 0.5) * height, label, ha="right", va="center", fontsize=10)
        figure.savefig(file, pil_kwargs={"quality": 90})
