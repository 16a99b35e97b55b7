"""A report as HTML and as Markdown. Pure but for the templates, which lie beside."""

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from pixeval import __version__
from pixeval.pictures import Picture
from reports import charts, figures
from reports.flaw_maps import FlawMaps
from reports.ledger import Ledger
from reports.report import Report
from reports.verdict import TITLE

TEMPLATES = Path(__file__).parent / "page"


def render_html(
    report: Report,
    ledger: Ledger,
    pictures: Mapping[str, Picture],
    maps: FlawMaps,
    built: str,
    commit: str | None = None,
) -> str:
    """The page.

    Args:
        pictures: of every sample id that the report shows.
        maps: heat maps of the gallery.
        built: the date, the only thing in which two pages of equal inputs differ.
        commit: of the code that builds the page.
    """
    script = (TEMPLATES / "gallery.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = page_environment()
    environment.globals["fig"] = tracer(ledger)
    return environment.get_template("report.html.j2").render(
        report=report,
        pictures=pictures,
        maps=maps,
        built=built,
        commit=commit,
        version=__version__,
        script=script,
        script_hash=f"sha256-{digest}",
        curves=charts.metric_charts(report, ledger),
        training=charts.training_charts(report, ledger, held_out=False),
        probes=charts.training_charts(report, ledger, held_out=True),
        bands=charts.band_charts(report, ledger),
    )


def render_markdown(report: Report, built: str) -> str:
    """The same without images and charts."""
    return environment(html=False).get_template("report.md.j2").render(report=report, built=built)


def tracer(ledger: Ledger) -> Callable[..., Markup]:
    """Makes the template function ``fig(owner, name, show)``: a number with its id in the ledger."""

    def fig(owner: object, name: str, show: Callable[[float | None], str] = figures.number) -> Markup:
        value: Any = owner
        for part in name.split("."):
            value = value[int(part)] if part.isdigit() else getattr(value, part)
        machine = "" if value is None else repr(value)
        where = ledger.id_of(owner, name)
        text = f"{value:,}" if isinstance(value, int) and show is figures.number else show(value)
        return Markup('<data value="{}" data-id="{}">{}</data>').format(machine, where, text)

    return fig


def page_environment() -> Environment:
    """Templates of HTML, with everything escaped."""
    return environment(html=True)


def environment(html: bool) -> Environment:
    """Templates with the filters and figures that they use."""
    found = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters |= {
        "number": figures.number,
        "percent": figures.percent,
        "command": shlex.join,
        "pretty": lambda value: json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True),
        "md": markdown_text,
        "clip": clip,
        "unbroken": unbroken,
    }
    found.globals |= {
        "stacked_bar": figures.stacked_bar,
        "interval_track": figures.interval_track,
        "flaw_marks": figures.flaw_marks,
        "legend": figures.legend,
        "effect_axis": charts.effect_axis,
        "net_axis": charts.net_axis,
        "narrower": charts.narrower,
        "number": figures.number,
        "percent": figures.percent,
        "titles": TITLE,
    }
    return found


def clip(text: str, length: int = 160) -> str:
    """The beginning of a long text."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def unbroken(text: str, report: Report) -> Markup:
    """``text`` with the names of arms, unless long, kept on one line."""
    names = sorted((arm.name for arm in report.arms if len(arm.name) <= 28), key=len, reverse=True)
    if not names:
        return escape(text)
    parts = re.split("(" + "|".join(re.escape(name) for name in names) + ")", text)
    wrapped = [Markup('<span class="nb">{}</span>').format(p) if i % 2 else escape(p) for i, p in enumerate(parts)]
    return Markup("").join(wrapped)


def markdown_text(text: object) -> str:
    """Any text on one line of Markdown, with nothing in it that Markdown or HTML would take for markup."""
    line = " ".join(str(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join("\\" + c if c in "\\`*_{}[]()#!|~" else c for c in line).replace("://", ":\u200b//")
