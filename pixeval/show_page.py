"""The page of ``pixeval show``: one self-contained HTML file, pictures inlined, everything from outside escaped."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from torch import Tensor

from pixeval import __version__
from pixeval.anchors import Anchors, Degree, Picture, Series
from pixeval.catalog import find
from pixeval.own_scores import OwnScores, Placed
from pixeval.pictures import inline
from pixeval.scoring.heatmap_overlay import outlined, overlay
from pixeval.show import NOT_FOLLOWING, facts

STYLE = """
:root { color-scheme: light dark; --bg: #fff; --panel: #f5f6f8; --ink: #16191d; --soft: #566069; --line: #dde1e6;
  --mark: #1b64a8; --pale: #b9d3ec; --warn-bg: #fff3e4; --warn: #d9822b; }
@media (prefers-color-scheme: dark) { :root { --bg: #14171b; --panel: #1d2126; --ink: #e8eaed; --soft: #a0a9b3;
  --line: #343a42; --mark: #6fb1f2; --pale: #2f4c68; --warn-bg: #33261a; --warn: #f59a4c; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--bg); color: var(--ink); font-variant-numeric: tabular-nums;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif; }
main { max-width: 70rem; margin: 0 auto; padding: 2.5rem 1.25rem 3rem; }
h1 { font-size: clamp(1.5rem, 1.1rem + 1.8vw, 2.25rem); line-height: 1.2; margin: 0.2rem 0 0.4rem;
  letter-spacing: -0.015em; overflow-wrap: anywhere; }
h2 { font-size: 1.35rem; line-height: 1.3; margin: 2.75rem 0 0.4rem; padding-top: 1.1rem;
  border-top: 1px solid var(--line); letter-spacing: -0.01em; }
h3 { font-size: 1rem; margin: 1.6rem 0 0.5rem; overflow-wrap: anywhere; }
p { margin: 0.5rem 0; max-width: 48rem; overflow-wrap: anywhere; }
code { font-family: ui-monospace, "SF Mono", "Cascadia Mono", "Liberation Mono", monospace; font-size: 0.875em;
  overflow-wrap: anywhere; }
.soft { color: var(--soft); } .small { font-size: 0.86rem; } .over { color: var(--soft); font-size: 0.9rem; margin: 0; }
.warn { border: 1px solid var(--warn); border-left-width: 6px; background: var(--warn-bg); border-radius: 6px;
  padding: 0.6rem 0.9rem; margin: 1rem 0; max-width: 48rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.2rem 1.2rem; margin: 0.8rem 0; font-size: 0.92rem;
  max-width: 60rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }
figure { margin: 0; min-width: 0; }
figure img, .none { display: block; max-width: 100%; height: auto; border-radius: 4px; border: 1px solid var(--line);
  background: var(--panel); }
.none { padding: 0.6rem; font-size: 0.8rem; color: var(--soft); }
figure img + img { margin-top: 0.4rem; }
figcaption { font-size: 0.82rem; line-height: 1.35; color: var(--soft); margin-top: 0.3rem; overflow-wrap: anywhere; }
figcaption strong { color: var(--ink); font-size: 1rem; display: block; }
.ends { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 13rem), 1fr)); gap: 1.25rem;
  margin: 1rem 0; }
.ends figure { background: var(--panel); border-radius: 8px; padding: 0.6rem; }
.ends figure .two { display: flex; gap: 0.4rem; flex-wrap: wrap; }
.ends figure .two img { margin: 0; image-rendering: pixelated; }
.ends .place { font-weight: 600; margin: 0 0 0.5rem; }
.strip { display: grid; grid-auto-flow: column; grid-auto-columns: 10.125rem; gap: 0.75rem; overflow-x: auto;
  padding-bottom: 0.5rem; scroll-snap-type: x proximity; }
.strip.wide { grid-auto-columns: 12.125rem; } .strip.own { grid-auto-columns: 12rem; }
.strip figure { scroll-snap-align: start; }
.strip.own figcaption { min-height: 6.2rem; margin: 0 0 0.4rem; }
.degrees { margin: 0.8rem 0; max-width: 60rem; }
.degrees > div { display: grid; grid-template: "name track number" / 11rem minmax(8rem, 1fr) 15rem;
  gap: 0.15rem 1rem; align-items: center; font-size: 0.9rem; padding: 0.2rem 0; }
.degrees .name { grid-area: name; } .degrees .track { grid-area: track; } .degrees .number { grid-area: number; }
.track { position: relative; height: 1.1rem; background: var(--panel); border-radius: 4px; }
.track i { position: absolute; top: 0.2rem; height: 0.7rem; background: var(--pale); border-radius: 3px;
  min-width: 2px; }
.track b { position: absolute; top: 0; height: 1.1rem; width: 3px; margin-left: -1.5px; background: var(--mark); }
.axis { display: flex; justify-content: space-between; color: var(--soft); font-size: 0.8rem; }
.bars { display: flex; align-items: flex-end; gap: 2px; height: 7rem; margin-top: 1rem;
  border-bottom: 1px solid var(--line); }
.bars i { flex: 1; background: var(--mark); border-radius: 2px 2px 0 0; }
.histogram { max-width: 44rem; } .histogram .track { margin-top: 0.3rem; height: 0.6rem; background: none; }
.histogram .track b { height: 0.6rem; }
table { border-collapse: collapse; margin: 0.8rem 0; font-size: 0.92rem; }
th { text-align: left; font-size: 0.82rem; color: var(--soft); white-space: nowrap; }
th, td { padding: 0.3rem 1rem 0.3rem 0;
  border-bottom: 1px solid var(--line); vertical-align: top; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
footer { color: var(--soft); font-size: 0.86rem; margin-top: 3rem; }
@media (max-width: 46rem) { main { padding: 1.5rem 1rem 2.5rem; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 0.5rem; }
  .ends { gap: 0.8rem; }
  .degrees > div { grid-template: "name number" "track track" / 1fr max-content; padding: 0.35rem 0; } }
"""
ENLARGED = 160
"""Pictures up to this side are shown twice as large where there is room."""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True)
class Page:
    """What :func:`pixeval.show.show` found, with the pictures."""

    found: dict[str, Any]
    """As ``show`` returns it."""
    anchors: Anchors | None
    own: OwnScores | None
    higher_is_better: bool

    @property
    def _full(self) -> float:
        """Heat that is drawn at full strength."""
        return find(self.found["metric"]["name"]).full_heat

    def html(self) -> str:
        """The whole page."""
        metric = self.found["metric"]
        name = _text(metric["name"])
        blocks = [self._head(metric)]
        if self.found["missing"]:
            blocks.append(f'<p class="warn">{_text(self.found["missing"])}</p>')
        if self.own is not None:
            blocks.append(self._own(self.own))
        if self.anchors is not None:
            blocks += [self._ends(self.anchors), self._degrees(self.anchors), self._series(self.anchors)]
            blocks.append(
                f"<footer><p>pixeval {_text(__version__)}; metric <code>{_text(self.anchors.fingerprint)}</code>. "
                "Every value on this page was computed by the metric when the page was made.</p></footer>"
            )
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="referrer" content="no-referrer">\n<meta name="color-scheme" content="light dark">\n'
            f"<title>{name}: low, middle and high values</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
            + "\n".join(blocks)
            + "\n</main>\n</body>\n</html>\n"
        )

    def _head(self, metric: dict[str, Any]) -> str:
        rows = facts(metric)
        caution = dict(rows)["caution"]
        listed = "".join(
            f"<dt>{_text(key)}</dt><dd>{_text(text)}</dd>" for key, text in rows if key not in ("caution", "better")
        )
        direction = "↑ higher is better" if self.higher_is_better else "↓ lower is better"
        return (
            f'<p class="over">pixeval · {_text(metric["family"])}</p><h1>{_text(metric["name"])}</h1>'
            f"<p>{_text(_sentence(metric['summary']))} <strong>{direction}.</strong></p>"
            f'<p class="warn"><strong>When not to trust it.</strong> {_text(caution)}</p><dl>{listed}</dl>'
        )

    def _ends(self, anchors: Anchors) -> str:
        ends = anchors.ends
        if not ends:
            reason = next((d.reason for d in anchors.degrees if d.reason), None) or "no bundled image shows the change"
            return f'<h2>Low, middle, high</h2><p class="warn">No values: {_text(reason)}</p>'
        places = ["low", "middle", "high"] if len(ends) == 3 else ["low", "high"][: len(ends)]
        best = places[-1] if self.higher_is_better else places[0]
        cells = []
        for place, picture in zip(places, ends, strict=True):
            note = ", best" if place == best else ""
            shown = _images(picture, anchors.series[0], self._full)
            if picture.heat is None and picture.pixels.shape[-1] <= ENLARGED:
                shown = _image(picture.pixels, picture.title, 2)
            cells.append(
                f'<figure><p class="place">{place.capitalize()}{note}</p><div class="two">{shown}</div>'
                f"<figcaption><strong>{_number(picture.value)}</strong>{_text(picture.title)}</figcaption></figure>"
            )
        clearest = f" The clearest of them: <code>{_text(anchors.series[0].name)}</code>."
        if anchors.series[0].kind == "set":
            clearest = ""
        note = "" if anchors.follows else f'<p class="warn">{_text(NOT_FOLLOWING)}</p>'
        heat = (
            " Beside it the heat map: colour where the metric sees the flaw, a green line around where it was planted."
            if any(picture.heat is not None for picture in ends)
            else ""
        )
        return (
            f"<h2>Low, middle, high</h2><p>{_text(_sentence(anchors.made_of))}{clearest}{heat}</p>{note}"
            f'<div class="ends">{"".join(cells)}</div>'
        )

    def _degrees(self, anchors: Anchors) -> str:
        degrees = anchors.degrees
        held = [value for d in degrees if d.quartiles is not None for value in d.quartiles]
        if not held or max(d.n for d in degrees) < 2:
            return self._plain_degrees(degrees)
        low, high = min(held), max(held)
        span = (high - low) or 1.0
        rows = []
        for degree in degrees:
            name = f'<span class="name">{_text(degree.title)}</span>'
            if degree.quartiles is None or degree.median is None:
                rows.append(f'<div>{name}<span class="number soft">{_text(degree.reason or "")}</span></div>')
                continue
            left, right = (100 * (value - low) / span for value in degree.quartiles)
            note = f"; {degree.missing} without a value: {_text(degree.reason or '')}" if degree.missing else ""
            rows.append(
                f'<div>{name}<span class="track"><i style="left:{left:.2f}%;width:{right - left:.2f}%"></i>'
                f'<b style="left:{100 * (degree.median - low) / span:.2f}%"></b></span>'
                f'<span class="number"><strong>{_number(degree.median)}</strong> <span class="soft">'
                f"{_number(degree.quartiles[0])} to {_number(degree.quartiles[1])}{note}</span></span></div>"
            )
        unit = f" The number after a level: {_text(anchors.unit)}." if anchors.unit else ""
        count = max(degree.n for degree in degrees)
        return (
            f"<h2>Over all the images</h2><p>Median and middle half of {count} images. Where two bars overlap, one "
            f'value says little without knowing the image.{unit}</p><div class="degrees">'
            f"{''.join(rows)}</div>"
        )

    def _plain_degrees(self, degrees: Sequence[Degree]) -> str:
        rows = "".join(
            f"<tr><td>{_text(d.title)}</td><td>{_number(d.median)}</td><td>{_text(d.reason or '')}</td></tr>"
            for d in degrees
        )
        return f"<h2>All values</h2><table>{rows}</table>"

    def _series(self, anchors: Anchors) -> str:
        if not anchors.series:
            return ""
        scale = "Sixteen images of each set" if anchors.series[0].kind == "set" else "Pictures at their own size"
        parts = [f"<h2>Step by step</h2><p>{scale}; scroll sideways on a narrow screen.</p>"]
        for series in anchors.series:
            title = f"{_text(series.kind.capitalize())} <code>{_text(series.name)}</code>"
            wide = " wide" if series.kind == "photograph" and series.pictures[0].pixels.shape[-1] > ENLARGED else ""
            cells = "".join(
                f"<figure>{_images(p, series, self._full)}<figcaption><strong>{_number(p.value)}</strong>"
                f"{_text(p.title)}{'. ' + _text(p.reason) if p.reason else ''}</figcaption></figure>"
                for p in series.pictures
            )
            scrolled = f'tabindex="0" role="group" aria-label="{_text(series.name)}"'
            parts.append(f'<h3>{title}</h3><div class="strip{wide}" {scrolled}>{cells}</div>')
        return "\n".join(parts)

    def _own(self, own: OwnScores) -> str:
        lines = [f"<h2>Your images</h2><p><code>{_text(own.folder)}</code>: {own.n} scored."]
        if own.mean is not None:
            interval = (
                "" if own.mean.low is None else f", 95 % interval {_number(own.mean.low)} to {_number(own.mean.high)}"
            )
            lines.append(f" Mean <strong>{_number(own.mean.value)}</strong>{interval}.")
        lines.append("</p>")
        if own.placed:
            lines += [self._histogram(own), self._placed(own.placed)]
        for score, sheet in own.sets:
            against = f" against {_text(score.reference)}" if score.reference else ""
            interval = "" if score.low is None else f", 95 % interval {_number(score.low)} to {_number(score.high)}"
            value = f"<strong>{_number(score.value)}</strong>{interval}; {score.n} images"
            lines.append(f"<h3>{_text(score.label)}{against}</h3><p>{value}. {_text(score.reason or '')}</p>")
            if sheet is not None:
                lines.append(f"<figure>{_image(sheet, 'sixteen of the images')}</figure>")
        if own.missing:
            rows = "".join(f"<tr><td>{n}</td><td>{_text(reason)}</td></tr>" for reason, n in own.missing)
            lines.append(
                f'<h3>Without a value</h3><div class="scroll"><table><tr><th>images</th><th>reason</th></tr>{rows}'
            )
            lines.append("</table></div>")
        return "".join(lines)

    def _histogram(self, own: OwnScores) -> str:
        low, high = own.placed[0].value, own.placed[-1].value
        span = (high - low) or 1.0
        most = max(own.counts)
        bars = "".join(f'<i style="height:{100 * count / most:.1f}%"></i>' for count in own.counts)
        marks = "".join(f'<b style="left:{100 * (p.value - low) / span:.2f}%"></b>' for p in own.placed[1:-1])
        anchors = ""
        if self.anchors is not None and self.anchors.ends:
            values = " · ".join(_number(picture.value) for picture in self.anchors.ends)
            anchors = (
                f'<p class="soft small">Anchors on bundled images, for comparison: {values} (low, middle, high). '
                "Values of images of other sizes and kinds need not compare.</p>"
            )
        label = _text(f"histogram of {own.n} values from {_number(low)} to {_number(high)}")
        return (
            f'<div class="histogram"><div class="bars" role="img" aria-label="{label}">{bars}</div>'
            f'<div class="track">{marks}</div><div class="axis"><span>{_number(low)}</span>'
            f"<span>lines: quartiles and median</span><span>{_number(high)}</span></div></div>{anchors}"
        )

    def _placed(self, placed: Sequence[Placed]) -> str:
        cells = []
        for one in placed:
            shown = '<div class="none">the file could not be read again</div>'
            if one.pixels is not None:
                shown = _image(one.pixels, one.place)
                if one.heat is not None:
                    shown += _image(overlay(one.pixels, one.heat, self._full), f"heat map, {one.place}")
            interval = "" if one.low is None else f"95 %: {_number(one.low)} to {_number(one.high)}<br>"
            cells.append(
                f"<figure><figcaption><strong>{_number(one.value)}</strong>{_text(one.place)}<br>{interval}"
                f"<bdi>{_text(one.name)}</bdi></figcaption>{shown}</figure>"
            )
        return f'<div class="strip own" tabindex="0" role="group" aria-label="Your images">{"".join(cells)}</div>'


def _images(picture: Picture, series: Series, full: float) -> str:
    shown = _image(picture.pixels, picture.title)
    if picture.heat is None:
        return shown
    laid = overlay(picture.pixels, picture.heat, full)
    return shown + _image(laid if series.mask is None else outlined(laid, series.mask), f"heat map, {picture.title}")


def _image(pixels: Tensor, alt: str, zoom: int = 1) -> str:
    picture = inline(pixels)
    size = f'width="{zoom * picture.width}" height="{zoom * picture.height}"'
    return f'<img src="{picture.uri}" {size} alt="{_text(alt)}" decoding="async">'


def _text(words: str) -> str:
    """Escaped; control characters, such as those that turn the direction of writing, become question marks."""
    return escape("".join(c if c.isprintable() else "?" for c in words))


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}".replace("-", "−")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
