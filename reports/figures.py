"""Charts as inline SVG. Pure: numbers in, markup out; colours are CSS variables, so light and dark both read well.

Bars and interval tracks place everything in per cent of their width and hold no scaled text, so they stay legible
at any width. Line charts have a fixed view box and are laid out as small multiples.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pixeval.records import FlawMark

Place = Callable[[float, float], tuple[float, float]]
"""Data coordinates to view-box coordinates."""


@dataclass(frozen=True)
class Point:
    """One place on a line; ``low`` and ``high`` bound its interval where there is one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    id: str = ""
    """Of the number in the report's ledger."""


@dataclass(frozen=True)
class Series:
    """One line of a chart. ``slot`` 0 to 3 picks colour and dash, so that it reads without colour too."""

    name: str
    points: tuple[Point, ...]
    slot: int = 0
    id: str = ""
    """Of the curve in the report's ledger, for lines without dots."""


def stacked_bar(win: float, tie: float, both_bad: float, loss: float, label: str) -> Markup:
    """Four shares of 1 as one bar: win (blue) from the left, tie (grey), both bad (darker grey), loss (orange)."""
    parts: list[Markup] = []
    start = 0.0
    for name, share in (("win", win), ("tie", tie), ("bad", both_bad), ("loss", loss)):
        if share <= 0:
            continue
        parts.append(
            Markup('<rect class="bar-{0}" x="{1}%" y="0" width="{2}%" height="22"/>').format(
                name, _num(100 * start), _num(100 * share)
            )
        )
        if share >= 0.09:
            parts.append(
                Markup('<text class="bar-text on-{0}" x="{1}%" y="11">{2}</text>').format(
                    name, _num(100 * (start + share / 2)), percent(share)
                )
            )
        start += share
    return Markup('<svg class="bar" width="100%" height="22" role="img" aria-label="{}">{}</svg>').format(
        label, Markup("").join(parts)
    )


def flaw_marks(marks: Sequence[FlawMark]) -> Markup:
    """Annotators' marks to be laid over an image: boxes and points, solid where major and dashed where minor."""
    if not marks:
        return Markup("")
    parts = []
    for mark in marks:
        x, y, width, height = (_num(100 * min(max(v, 0.0), 1.0)) for v in (mark.x, mark.y, mark.width, mark.height))
        shape = (
            Markup('<circle cx="{}%" cy="{}%" r="8"').format(x, y)
            if mark.width <= 0 or mark.height <= 0
            else Markup('<rect x="{}%" y="{}%" width="{}%" height="{}%"').format(x, y, width, height)
        )
        said = f"{mark.severity} {mark.category}"
        # Twice, dark under light, so that marks show on any image.
        parts.append(shape + Markup(' class="under"/>'))
        parts.append(
            shape + Markup(' class="{}"><title>{}</title>').format(mark.severity, said)
            + Markup("</circle>" if mark.width <= 0 or mark.height <= 0 else "</rect>")
        )  # fmt: skip
    words = ", ".join(f"{mark.severity} {mark.category}" for mark in marks)
    return Markup('<svg class="marks" width="100%" height="100%" role="img" aria-label="{}">{}</svg>').format(
        f"marked flaws: {words}", Markup("").join(parts)
    )


def interval_track(
    value: float,
    low: float,
    high: float,
    axis: tuple[float, float],
    tone: str,
    label: str,
    naive: tuple[float, float] | None = None,
) -> Markup:
    """One row of a forest plot with its zero line: a dot, its interval, and the naive interval thin below it.

    Args:
        value: the estimate; ``low`` and ``high`` its 95 % interval, all in the units of ``axis``.
        axis: what the left and right edge stand for; must contain 0.
        tone: ``better``, ``worse`` or ``unclear``.
        label: the same in words, for screen readers.
        naive: a second interval for reference only.
    """
    place = _placer(axis)
    parts = [Markup('<line class="zero" x1="{0}%" x2="{0}%" y1="0" y2="26"/>').format(place(0.0))]
    if naive is not None:
        parts.append(
            Markup('<line class="naive" x1="{}%" x2="{}%" y1="21" y2="21"/>').format(place(naive[0]), place(naive[1]))
        )
    parts.append(
        Markup('<line class="span {0}" x1="{1}%" x2="{2}%" y1="12" y2="12"/>').format(tone, place(low), place(high))
    )
    for edge, beyond in ((low, low < axis[0]), (high, high > axis[1])):
        if not beyond:
            parts.append(Markup('<line class="cap {0}" x1="{1}%" x2="{1}%" y1="8" y2="16"/>').format(tone, place(edge)))
    if axis[0] <= value <= axis[1]:
        parts.append(Markup('<circle class="dot {0}" cx="{1}%" cy="12" r="4.5"/>').format(tone, place(value)))
    else:  # an arrow head at the edge says that the dot lies beyond it
        glyph, anchor = ("▸", "end") if value > axis[1] else ("◂", "start")
        parts.append(
            Markup('<text class="beyond {0}" x="{1}%" y="12" text-anchor="{2}">{3}</text>').format(
                tone, place(value), anchor, glyph
            )
        )
    return Markup('<svg class="track" width="100%" height="26" role="img" aria-label="{}">{}</svg>').format(
        label, Markup("").join(parts)
    )


def _placer(axis: tuple[float, float]) -> Callable[[float], str]:
    low, high = axis

    def place(value: float) -> str:
        share = (min(max(value, low), high) - low) / (high - low)
        return _num(2 + 96 * share)

    return place


WIDTH, HEIGHT = 300, 168
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 26


def line_chart(
    series: Sequence[Series], label: str, baseline: float | None = None, x_name: str = "step", dots: bool = True
) -> Markup:
    """A small chart of one or more lines with interval bands.

    Args:
        series: at least one with at least one point; non-finite values must have been dropped.
        label: what the chart shows, for screen readers.
        baseline: drawn as a dashed horizontal line.
        x_name: named under the axis.
        dots: mark each point (checkpoints) or draw the line alone (training curves).
    """
    points = [p for s in series for p in s.points]
    if not points:
        raise ValueError("a line chart needs at least one point")
    x_low, x_high = _widen(min(p.x for p in points), max(p.x for p in points), 0.0)
    ys = [v for p in points for v in (p.y, p.low, p.high) if v is not None]
    if baseline is not None:
        ys.append(baseline)
    y_low, y_high = _widen(min(ys), max(ys), 0.06)

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * (x - x_low) / (x_high - x_low)
        down = TOP + (HEIGHT - TOP - BOTTOM) * (1 - (y - y_low) / (y_high - y_low))
        return across, down

    parts = [_grid(x_low, x_high, y_low, y_high, at, x_name)]
    if baseline is not None:
        _, down = at(x_low, baseline)
        parts.append(
            Markup('<line class="baseline" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>').format(
                LEFT, WIDTH - RIGHT, _num(down)
            )
        )
    parts += [_band(s, at) for s in series] + [_line(s, at, dots) for s in series]
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, label, Markup("").join(parts)
    )


def _grid(x_low: float, x_high: float, y_low: float, y_high: float, at: Place, x_name: str) -> Markup:
    parts: list[Markup] = []
    marks = ticks(y_low, y_high, 4)
    for tick in marks:
        _, down = at(x_low, tick)
        parts.append(
            Markup(
                '<line class="grid" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>'
                '<text class="tick y" x="{3}" y="{2}">{4}</text>'
            ).format(LEFT, WIDTH - RIGHT, _num(down), LEFT - 6, tick_text(tick, marks))
        )
    for tick in ticks(x_low, x_high, 4):
        across, _ = at(tick, y_low)
        parts.append(
            Markup('<text class="tick x" x="{}" y="{}">{}</text>').format(_num(across), HEIGHT - 9, number(tick))
        )
    parts.append(Markup('<text class="tick name" x="{}" y="{}">{}</text>').format(LEFT - 12, HEIGHT - 9, x_name))
    return Markup("").join(parts)


def _band(series: Series, at: Place) -> Markup:
    edged = [(p.x, p.low, p.high) for p in series.points if p.low is not None and p.high is not None]
    if not edged:
        return Markup("")
    if len(edged) == 1:
        x, low, high = edged[0]
        (across, top), (_, bottom) = at(x, high), at(x, low)
        return Markup('<line class="whisker s{0}" x1="{1}" x2="{1}" y1="{2}" y2="{3}"/>').format(
            series.slot, _num(across), _num(top), _num(bottom)
        )
    upper = [at(x, high) for x, _, high in edged]
    lower = [at(x, low) for x, low, _ in reversed(edged)]
    corners = " ".join(f"{_num(a)},{_num(d)}" for a, d in upper + lower)
    return Markup('<polygon class="band s{}" points="{}"/>').format(series.slot, corners)


def _line(series: Series, at: Place, dots: bool) -> Markup:
    placed = [at(p.x, p.y) for p in series.points]
    parts = [
        Markup('<polyline class="line s{}" points="{}"{}/>').format(
            series.slot,
            " ".join(f"{_num(a)},{_num(d)}" for a, d in placed),
            Markup(' data-id="{}"').format(series.id) if series.id else "",
        )
    ]
    if dots or len(placed) == 1:
        for point, (a, d) in zip(series.points, placed, strict=True):
            said = f"{series.name}, {number(point.x)}: {number(point.y)}"
            if point.low is not None and point.high is not None:
                said += f" ({number(point.low)} to {number(point.high)})"
            traced = Markup(' data-id="{}"').format(point.id) if point.id else ""
            shape = (
                Markup('<circle class="mark s{}" cx="{}" cy="{}" r="3"{}>').format(
                    series.slot, _num(a), _num(d), traced
                )
                if series.slot == 0
                else Markup('<rect class="mark s{}" x="{}" y="{}" width="6" height="6"{}>').format(
                    series.slot, _num(a - 3), _num(d - 3), traced
                )
            )
            parts.append(
                shape + Markup("<title>{}</title></{}>").format(said, "circle" if series.slot == 0 else "rect")
            )
    return Markup("").join(parts)


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers within [low, high], about ``wanted`` of them."""
    if not high > low:
        return [low]
    rough = (high - low) / wanted
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def tick_text(tick: float, marks: Sequence[float]) -> str:
    """A tick with as many digits as tell it from its neighbours."""
    step = abs(marks[1] - marks[0]) if len(marks) > 1 else abs(tick) or 1.0
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    if places > 4:
        text = f"{tick:.1e}" if round(tick / step) % 10 else f"{tick:.0e}"
        return text.replace("e-0", "e−").replace("e-", "e−").replace("-", "−") if tick else "0"
    if abs(tick) >= 1e7:
        return number(tick)
    return f"{tick:,.{places}f}".replace("-", "−")


def _widen(low: float, high: float, share: float) -> tuple[float, float]:
    """A range of positive width, with ``share`` of it added on both sides."""
    if high <= low:
        pad = abs(low) * 0.05 or 1.0
        return low - pad, high + pad
    pad = (high - low) * share
    return low - pad, high + pad


def _num(value: float) -> str:
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def number(value: float | None, signed: bool = False) -> str:
    """Three significant digits for people: ``0.0123``, ``12.3``, ``1,234``; a true minus sign; a dash for None."""
    if value is None:
        return "–"
    size = abs(value)
    if size == 0:
        text = "0"
    elif size >= 1000:
        text = f"{size:,.0f}" if size < 1e7 else f"{size:.2e}".replace("e+", "e")
    elif size >= 1e-5:
        text = f"{size:.{max(0, 2 - math.floor(math.log10(size)))}f}"
        if "." in text and not signed:
            text = text.rstrip("0").rstrip(".")
    else:
        text = f"{size:.1e}".replace("e-0", "e−").replace("e-", "e−")
    if value < 0:
        return "−" + text
    return "+" + text if signed and value > 0 else text


def percent(share: float | None, signed: bool = False) -> str:
    """A share of 1 as whole per cent."""
    if share is None:
        return "–"
    points = round(100 * share)
    sign = "−" if points < 0 else "+" if signed and points > 0 else ""
    return f"{sign}{abs(points)} %"


def legend(names: Sequence[str]) -> Markup:
    """The key of a chart with several series, in the order of their slots."""
    items = [
        Markup(
            '<span class="key"><svg width="26" height="10" aria-hidden="true"><line class="line s{0}" x1="0" x2="26" '
            'y1="5" y2="5"/></svg>{1}</span>'
        ).format(i, name)
        for i, name in enumerate(names)
    ]
    return Markup("").join(items)
