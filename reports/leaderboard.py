"""Many runs on one page, each judged against its own baseline."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pixeval.errors import InputError
from pixeval.stats.interval import Interval
from reports.files import to_json, write_text
from reports.render import page_environment
from reports.report import Report
from reports.verdict import TITLE

MAX_METRICS = 12


@dataclass(frozen=True)
class Cell:
    """One run in one column."""

    interval: Interval
    """Net win rate, or effect in standard deviations of the baseline's images; positive is better."""
    verdict: str
    firm: bool
    best: int
    """The ranks that the intervals allow: best and worst, 1 is first."""
    worst: int


@dataclass(frozen=True)
class Column:
    """One question or metric."""

    key: str
    title: str
    votes: bool
    cells: tuple[Cell | None, ...]
    """In the order of the rows; None where the run has no such number."""

    @property
    def reach(self) -> float:
        """Half the width of a symmetric axis that holds all intervals."""
        held = [c.interval for c in self.cells if c is not None]
        bounds = [abs(b) for i in held for b in (i.value, i.low, i.high) if b is not None]
        return min(1.0 if self.votes else 3.0, max([0.1, *bounds]) * 1.05)


@dataclass(frozen=True)
class Row:
    """One run."""

    name: str
    baseline: str
    candidate: str
    simulated: bool
    sentence: str


@dataclass(frozen=True)
class Leaderboard:
    """The page."""

    rows: tuple[Row, ...]
    """Best first by the first column; runs without a number in it last."""
    columns: tuple[Column, ...]
    cautions: tuple[str, ...]
    """Why rows cannot simply be compared."""


def leaderboard(reports: Sequence[Report]) -> Leaderboard:
    """The page's numbers.

    Ranks are sets: a run is behind another only where the whole interval lies below the other's. Runs whose intervals
    overlap share ranks, which is stricter than a test of their difference and needs no shared prompts.

    Raises:
        InputError: a run has nothing to be judged against.
    """
    for report in reports:
        if report.summary is None or not report.comparisons:
            raise InputError(
                f"run {report.title!r} holds no baseline to be judged against; leave it out, or give --baseline LABEL"
            )
    first = _columns(reports)[:1]
    order = sorted(range(len(reports)), key=lambda i: (_standing(first, i), reports[i].title))
    ordered = [reports[i] for i in order]
    return Leaderboard(tuple(_row(r) for r in ordered), tuple(_columns(ordered)), tuple(_cautions(ordered)))


def _standing(columns: Sequence[Column], row: int) -> float:
    cell = columns[0].cells[row] if columns else None
    return float("inf") if cell is None else -cell.interval.value


def _columns(reports: Sequence[Report]) -> list[Column]:
    heads = [report.comparisons[0] for report in reports]
    columns = []
    for question, title in TITLE.items():
        found = [next((v for v in head.votes if v.question == question), None) for head in heads]
        if any(found):
            raw = [(v.rates.net, v.verdict, v.firm) if v else None for v in found]
            columns.append(_column(question, title, True, raw))
    counts: dict[str, int] = {}
    for head in heads:
        for change in head.changes:
            counts[change.metric] = counts.get(change.metric, 0) + (change.effect is not None)
    firm = {change.metric for head in heads for change in head.changes if change.firm}
    # What tells runs apart comes first, if it must be cut off somewhere.
    shared = sorted((metric for metric, n in counts.items() if n == len(heads)), key=lambda metric: metric not in firm)
    for metric in shared[:MAX_METRICS]:
        rows = [next(c for c in head.changes if c.metric == metric) for head in heads]
        columns.append(
            _column(metric, metric, False, [(c.effect, c.verdict, c.firm) if c.effect else None for c in rows])
        )
    return columns


def _column(key: str, title: str, votes: bool, raw: Sequence[tuple[Interval, str, bool] | None]) -> Column:
    held = [one[0] for one in raw if one is not None]
    cells: list[Cell | None] = []
    for one in raw:
        if one is None:
            cells.append(None)
            continue
        interval, verdict, firm = one
        ahead = sum(_below(interval, other) for other in held)
        behind = sum(_below(other, interval) for other in held)
        cells.append(Cell(interval, verdict, firm, 1 + ahead, len(held) - behind))
    return Column(key, title, votes, tuple(cells))


def _below(one: Interval, other: Interval) -> bool:
    return one.high is not None and other.low is not None and one.high < other.low


def _row(report: Report) -> Row:
    said = report.summary.headline if report.summary else ""
    return Row(report.title, report.baseline or "", report.candidate or "", report.simulated_votes > 0, said)


def _cautions(reports: Sequence[Report]) -> list[str]:
    found = []
    bases = {next(arm.generators for arm in r.arms if arm.name == r.baseline) for r in reports}
    if len(bases) > 1:
        found.append(
            f"The runs have {len(bases)} different baselines, and each is judged against its own: "
            "a large gain over a weak baseline is not a good model."
        )
    asked = {next((arm.prompts, arm.seeds) for arm in r.arms if arm.name == r.baseline) for r in reports}
    if len(asked) > 1:
        found.append("The runs differ in their prompts or seeds, so that their numbers speak about different tasks.")
    if any(r.simulated_votes for r in reports):
        found.append("Votes of the runs marked so come from simulated annotators and say nothing about people.")
    return found


def build_leaderboard(reports: Sequence[Report], out: Path, built: str) -> Path:
    """Write ``leaderboard.html`` and ``leaderboard.json`` into ``out``; returns the path of the page.

    Raises:
        InputError: as :func:`leaderboard`.
    """
    board = leaderboard(reports)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "leaderboard.json", to_json({"format": 1, "built": built, **asdict(board)}))
    page = page_environment().get_template("leaderboard.html.j2").render(board=board, built=built)
    write_text(out / "leaderboard.html", page)
    return out / "leaderboard.html"
