"""Runs in, the page and its twins out. Equal inputs give equal bytes but for the date."""

import datetime as dt
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tyro.conf import Positional

from pixeval.catalog import CATALOG
from pixeval.errors import InputError
from pixeval.metric_spec import MetricSpec
from pixeval.records import Prompt, people_first
from pixeval.runs import Run, code_commit
from pixeval.suites import load_prompts
from pixeval.tables import write_records
from reports.arms import Source, require_samples
from reports.files import to_json, write_text
from reports.flaw_maps import flaw_maps
from reports.gallery import Exhibit
from reports.hub import model_card_yaml
from reports.latex import latex_table
from reports.leaderboard import build_leaderboard
from reports.ledger import Figure, Ledger
from reports.render import render_html, render_markdown
from reports.report import Report, assemble
from reports.score_table import score_rows
from reports.summary import summary_of
from reports.thumbnails import originals, thumbnails
from reports.training import TrainingLog, training_log, training_warnings


@dataclass(frozen=True)
class ReportConfig:
    """What to report on."""

    runs: Positional[tuple[Path, ...]]
    """The run to judge: one of training (its last checkpoint is judged), or of generation. Then further runs on the
    same prompts and seeds: another training to compare with, or the base model's run."""
    out: Path | None = None
    """Folder for the page and its twins; RUN/report by default."""
    baseline: str = "base"
    """Label to compare with."""
    candidate: str | None = None
    """Label to judge; the last checkpoint by default (never the best: that would flatter it)."""
    heatmap: str | None = None
    """Flaw metric whose heat maps are shown; by default the one that changed most."""
    full: bool = False
    """Inline the images as they are; without it thumbnails, so that the page stays below 10 MB."""
    leaderboard: bool = False
    """Instead: one page with a row for every run, each judged against its own baseline."""


def build_report(config: ReportConfig) -> Path:
    """Write the page and its twins; returns the path of ``report.html`` (or ``leaderboard.html``).

    Raises:
        InputError: a folder is no run, the run holds no images, or a label or metric is unknown.
    """
    if not config.runs:
        raise InputError("name a run: pixeval report RUN")
    if config.leaderboard:
        out = config.out if config.out is not None else Path("leaderboard")
        runs = [Run.open(path) for path in config.runs]
        reports = [assembled([run], config) for run in runs]
        return build_leaderboard(_renamed(reports, runs), out, build_date())
    runs = [Run.open(path) for path in config.runs]
    report = assembled(runs, config)
    out = config.out if config.out is not None else config.runs[0] / "report"
    write_report(report, runs, out, build_date(), config.full)
    return out / "report.html"


def assembled(runs: Sequence[Run], config: ReportConfig) -> Report:
    """All numbers of a report.

    Raises:
        InputError: as :func:`build_report`.
    """
    sources = read_sources(runs)
    require_samples(sources)
    specs = catalogue()
    return assemble(
        sources,
        [run.info for run in runs],
        [training_pairs(run) for run in runs],
        [log for run, source in zip(runs, sources, strict=True) if (log := read_log(run, source.name)) is not None],
        specs,
        prompt_tags(runs, sources),
        _flaw_metrics(config.heatmap, specs),
        _command(config, sources),
        config.baseline,
        config.candidate,
        [study for run in runs for study in read_studies(run)],
    )


def write_report(report: Report, runs: Sequence[Run], out: Path, built: str, full: bool = False) -> None:
    """The page and its twins into the folder ``out``."""
    ledger = Ledger(report)
    exhibits = [exhibit for group in report.gallery for exhibit in group.exhibits]
    files = _files_of(report, exhibits, runs)
    maps = flaw_maps(exhibits, report.heat_metric, files)
    pictures = originals(files) if full else thumbnails(files)
    summary = summary_of(report, built)
    out.mkdir(parents=True, exist_ok=True)
    write_records(out / "figures.parquet", ledger.figures, Figure)
    write_text(out / "report.json", to_json(asdict(report)))
    write_text(out / "summary.json", to_json(summary))
    write_text(out / "report.md", render_markdown(report, built))
    write_text(out / "table.tex", latex_table(report))
    index, results = model_card_yaml(summary)
    write_text(out / "model-index.yaml", index)
    write_text(out / "eval_results.yaml", results)
    write_text(out / "report.html", render_html(report, ledger, pictures, maps, built, code_commit()))


def _renamed(reports: Sequence[Report], runs: Sequence[Run]) -> list[Report]:
    """The reports under names that differ: with the parent folder where two runs are called alike."""
    names = [report.title for report in reports]
    longer = [f"{run.path.resolve().parent.name}/{name}" if names.count(name) > 1 else name
              for run, name in zip(runs, names, strict=True)]  # fmt: skip
    return [replace(report, title=name) for report, name in zip(reports, longer, strict=True)]


def _files_of(report: Report, exhibits: Sequence[Exhibit], runs: Sequence[Run]) -> dict[str, Path]:
    """The image file of every sample that is shown; that of the first run where several hold it."""
    shown = {sample for exhibit in exhibits for sample in exhibit.pairing.ids}
    shown |= {cell.sample_id for row in (*report.singles, *report.strip) for cell in row.cells}
    files: dict[str, Path] = {}
    for run in runs:
        found = {sample.id: run.image(sample) for sample in run.samples() if sample.id in shown}
        files = found | files
    return dict(sorted(files.items()))


def build_date() -> str:
    """Today, or what SOURCE_DATE_EPOCH says (reproducible-builds.org); year, month, day.

    Raises:
        InputError: SOURCE_DATE_EPOCH is no whole number of seconds.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        moment = dt.datetime.now(dt.UTC) if epoch is None else dt.datetime.fromtimestamp(int(epoch), dt.UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise InputError(f"SOURCE_DATE_EPOCH is {epoch!r}; it must be seconds since 1970, as a whole number") from error
    return moment.date().isoformat()


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
        Source(name, run.samples(), score_rows(run), run.set_scores(), people_first(run.votes()))
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
    words = ["pixeval", "report", *(source.name for source in sources)]
    for option, value in (("--candidate", config.candidate), ("--heatmap", config.heatmap)):
        words += [option, value] if value is not None else []
    words += ["--baseline", config.baseline] if config.baseline != "base" else []
    return words + (["--full", "True"] if config.full else [])


def prompt_tags(runs: Sequence[Run], sources: Sequence[Source]) -> dict[str, tuple[str, ...]]:
    """Tags of the prompts that images were made from: those kept in the runs, else of the suites that the runs name.

    A suite that is gone, or a file in which the id now stands for another text, gives none.
    """
    texts = {s.prompt_id: s.prompt for source in sources for s in source.samples}
    tags: dict[str, tuple[str, ...]] = {}
    for run in runs:
        config = run.info.get("config", {})
        for suite in (config.get("prompts"), config.get("evaluate")):
            tags |= {p.id: p.tags for p in _suite(suite) if texts.get(p.id) == p.text}
        tags |= {p.id: p.tags for p in run.prompts() if p.tags and texts.get(p.id) == p.text}
    return tags


def read_studies(run: Run) -> list[dict[str, Any]]:
    """What the labelling app wrote beside the votes, ``votes/*.json``; damaged files are passed over, and named."""
    found = []
    for file in sorted((run.path / "votes").glob("*.json")):
        try:
            study = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            print(f"{file} cannot be read ({error}); the report does without it", file=sys.stderr)
            continue
        found += [study] if isinstance(study, dict) else []
    return found


def _suite(source: object) -> list[Prompt]:
    if not isinstance(source, str):
        return []
    try:
        return load_prompts(source)
    except (InputError, OSError):
        return []


def _flaw_metrics(wanted: str | None, specs: Mapping[str, MetricSpec]) -> list[str]:
    if wanted is None:
        return [name for name, spec in specs.items() if spec.family == "flaws" and "weights" not in spec.needs]
    if wanted not in specs or specs[wanted].family != "flaws":
        known = ", ".join(name for name, spec in specs.items() if spec.family == "flaws")
        raise InputError(f"{wanted!r} is no metric with heat maps. Known: {known}.")
    return [wanted]
