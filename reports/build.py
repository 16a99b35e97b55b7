"""Runs in, ``report.html``, ``report.md`` and ``report.json`` out. Equal inputs give equal bytes: no clock, no path."""

import json
import math
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from tyro.conf import Positional

from pixeval.catalog import CATALOG
from pixeval.errors import InputError
from pixeval.metric_spec import MetricSpec
from pixeval.pictures import Picture, picture_of
from pixeval.records import Prompt, people_first
from pixeval.runs import Run
from pixeval.suites import load_prompts
from reports import charts, figures
from reports.arms import Source, require_samples
from reports.flaw_maps import FlawMaps, flaw_maps
from reports.report import Report, assemble
from reports.training import TrainingLog, training_log, training_warnings

TEMPLATES = Path(__file__).parent


@dataclass(frozen=True)
class ReportConfig:
    """What to report on."""

    run: Positional[Path]
    """The run to judge: one of training (its last checkpoint is judged), or of generation."""
    others: tuple[Path, ...] = ()
    """Further runs on the same prompts and seeds: another training to compare with, or the base model's run."""
    out: Path | None = None
    """Folder for report.html, report.md and report.json; RUN/report by default."""
    baseline: str = "base"
    """Label to compare with."""
    candidate: str | None = None
    """Label to judge; the last checkpoint by default (never the best: that would flatter it)."""
    heatmap: str | None = None
    """Flaw metric whose heat maps are shown; by default the one that changed most."""


def build_report(config: ReportConfig) -> Path:
    """Write the three files and return the path of ``report.html``.

    Raises:
        InputError: a folder is no run, the run holds no images, or a label or metric is unknown.
    """
    runs = [Run.open(path) for path in (config.run, *config.others)]
    sources = read_sources(runs)
    require_samples(sources)
    report = assemble(
        sources,
        [run.info for run in runs],
        [training_pairs(run) for run in runs],
        [log for run, source in zip(runs, sources, strict=True) if (log := read_log(run, source.name)) is not None],
        specs := catalogue(),
        _tags(runs, sources),
        _flaw_metrics(config.heatmap, specs),
        _command(config, sources),
        config.baseline,
        config.candidate,
    )
    files = {
        s.id: run.image(s) for run, source in reversed(list(zip(runs, sources, strict=True))) for s in source.samples
    }
    maps = flaw_maps(report.flaws, files)
    out = config.out if config.out is not None else config.run / "report"
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "report.json", to_json(report))
    _write(out / "report.md", render_markdown(report))
    _write(out / "report.html", render_html(report, files, maps))
    return out / "report.html"


def catalogue() -> dict[str, MetricSpec]:
    """Known metrics by name."""
    return {spec.name: spec for spec in CATALOG}


def read_sources(runs: Sequence[Run]) -> list[Source]:
    """The records of runs, each under a name of its own."""
    names: list[str] = []
    for run in runs:
        name, n = run.name, 2
        while name in names:
            name, n = f"{run.name} ({n})", n + 1
        names.append(name)
    return [
        Source(name, run.samples(), run.scores(), run.set_scores(), people_first(run.votes()))
        for name, run in zip(names, runs, strict=True)
    ]


def read_log(run: Run, name: str) -> TrainingLog | None:
    """The training log of a run, None for runs without one."""
    if not (run.path / "metrics.jsonl").exists():
        return None
    log, probes = training_log(_lines(run, "metrics"), name), training_log(_lines(run, "probes"), name, "held-out ")
    unreadable = log.unreadable_lines + probes.unreadable_lines
    warnings = training_warnings(_lines(run, "warnings"))
    return TrainingLog(name, log.curves + probes.curves, unreadable, warnings)


def _lines(run: Run, log: str) -> list[str]:
    file = run.path / f"{log}.jsonl"
    return file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []


def training_pairs(run: Run) -> tuple[int, int] | None:
    """How many pairs a preference run was trained on and how many of them come from simulated annotators."""
    data = run.info.get("config", {}).get("data")
    file = Path(data) / "preference" / "train.parquet" if isinstance(data, str) else None
    if file is None or not file.is_file():
        return None
    try:
        simulated = pq.read_table(file, columns=["simulated"])["simulated"].to_pylist()
    except (pa.ArrowInvalid, KeyError, OSError):
        return None
    return len(simulated), sum(bool(value) for value in simulated)


def _command(config: ReportConfig, sources: Sequence[Source]) -> list[str]:
    words = ["pixeval", "report", sources[0].name]
    if len(sources) > 1:
        words += ["--others", *(source.name for source in sources[1:])]
    for option, value in (("--candidate", config.candidate), ("--heatmap", config.heatmap)):
        words += [option, value] if value is not None else []
    return words + (["--baseline", config.baseline] if config.baseline != "base" else [])


def _tags(runs: Sequence[Run], sources: Sequence[Source]) -> dict[str, tuple[str, ...]]:
    """Tags of the prompts that images were made from, looked up in the suites that the runs name.

    A suite that is gone, or a file in which the id now stands for another text, gives none.
    """
    texts = {s.prompt_id: s.prompt for source in sources for s in source.samples}
    tags: dict[str, tuple[str, ...]] = {}
    for run in runs:
        config = run.info.get("config", {})
        for suite in (config.get("prompts"), config.get("evaluate")):
            tags |= {p.id: p.tags for p in _suite(suite) if texts.get(p.id) == p.text}
    return tags


def _suite(source: object) -> list[Prompt]:
    if not isinstance(source, str):
        return []
    try:
        return load_prompts(source)
    except (InputError, OSError):
        return []


def _flaw_metrics(wanted: str | None, specs: Mapping[str, MetricSpec]) -> list[str]:
    if wanted is None:
        return [name for name, spec in specs.items() if spec.family == "flaws"]
    if wanted not in specs or specs[wanted].family != "flaws":
        known = ", ".join(name for name, spec in specs.items() if spec.family == "flaws")
        raise InputError(f"{wanted!r} is no metric with heat maps. Known: {known}.")
    return [wanted]


def to_json(report: Report) -> str:
    """Every number of the page, as RFC 8259 JSON: what is not finite becomes null."""
    return json.dumps(finite(asdict(report)), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def finite(value: Any) -> Any:
    """Plain JSON values, with None for numbers that are not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return value


def render_html(report: Report, files: Mapping[str, Path], maps: FlawMaps) -> str:
    """The page, with all images inlined."""
    shown = {cell.sample_id for row in (*report.grid, *report.strip) for cell in row.cells}
    shown |= {s.id for row in maps.rows for s in (row.change.pairing.baseline, row.change.pairing.candidate)}
    pictures: dict[str, Picture] = {sample: picture_of(files[sample]) for sample in sorted(shown)}
    return (
        _environment(html=True)
        .get_template("template.html.j2")
        .render(
            report=report,
            pictures=pictures,
            maps=maps,
            curves=charts.metric_charts(report),
            training=charts.training_charts(report),
        )
    )


def render_markdown(report: Report) -> str:
    """The same without images and charts."""
    return _environment(html=False).get_template("template.md.j2").render(report=report)


def _environment(html: bool) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "number": figures.number,
        "percent": figures.percent,
        "command": shlex.join,
        "pretty": lambda value: json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True),
        "md": markdown_text,
        "clip": clip,
        "unbroken": unbroken,
    }
    environment.globals |= {
        "stacked_bar": figures.stacked_bar,
        "interval_track": figures.interval_track,
        "legend": figures.legend,
        "effect_axis": charts.effect_axis,
    }
    return environment


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


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8", newline="\n")
    os.replace(partial, path)
