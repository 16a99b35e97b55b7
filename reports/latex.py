"""The headline comparison as a LaTeX table (booktabs), to be put into a paper with ``\\input``. Pure."""

from reports.figures import number, percent
from reports.report import Comparison, Report
from reports.verdict import TITLE

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}
SIGNS = {"−": "$-$", "–": "--", "α": r"$\alpha$", "’": "'", " %": r"\,\%", "↑": r"$\uparrow$", "↓": r"$\downarrow$"}
MARK = {"better": r"$\blacktriangle$", "worse": r"$\blacktriangledown$"}


def latex_table(report: Report) -> str:
    """A table of votes and one of metrics; a comment where there is nothing to compare."""
    if not report.comparisons:
        return f"% {one_line(report.title)}: one set of images, nothing to compare\n"
    head = report.comparisons[0]
    said = one_line(report.summary.headline) if report.summary else ""
    parts = [f"% {said}", "% needs \\usepackage{booktabs,amssymb}"]
    if head.votes:
        parts.append(_votes(head))
    if head.changes:
        parts.append(_changes(head))
    return "\n".join(parts) + "\n"


def one_line(text: str) -> str:
    """Without line breaks, which would end a comment."""
    return " ".join(text.split())


def tex(text: str) -> str:
    """Any text with nothing in it that LaTeX would take for a command."""
    escaped = "".join(SPECIAL.get(c, c) for c in one_line(text).replace("\u00a0", " "))
    return "".join(c for c in escaped if c.isprintable())


def _sign(text: str) -> str:
    for plain, command in SIGNS.items():
        text = text.replace(plain, command)
    return text


def _votes(head: Comparison) -> str:
    simulated = any(v.rates.simulated for v in head.votes)
    rows = []
    for result in head.votes:
        r = result.rates
        bounds = "--" if r.net.low is None else f"[{percent(r.net.low, True)}, {percent(r.net.high, True)}]"
        cells = [f"{r.win}/{r.tie}/{r.both_bad}/{r.loss}", percent(r.net.value, True), bounds, number(result.p_holm)]
        rows.append(" & ".join([tex(TITLE[result.question]), *(_sign(cell) for cell in cells), _mark(result)]) + r" \\")
    caption = (
        f"Votes{' of simulated annotators' if simulated else ''} on {tex(head.candidate)} against "
        f"{tex(head.baseline)}: {head.votes[0].rates.prompts} prompts, {head.votes[0].rates.annotators} annotators. "
        "Net win rate with its 95\\,\\% interval, two-way clustered by prompt and annotator; "
        "$p$ after Holm's correction."
    )
    columns = "question & win/tie/both bad/loss & net & 95\\,\\% & $p$ & "
    return _table("lrrrrl", columns, rows, caption, "votes")


def _changes(head: Comparison) -> str:
    rows = []
    for c in head.changes:
        arrow = {True: r" $\uparrow$", False: r" $\downarrow$", None: ""}[c.higher_is_better]
        change = c.change
        bounds = "--" if change.low is None else f"[{number(change.low, True)}, {number(change.high, True)}]"
        cells = [number(c.baseline_mean), number(c.candidate_mean), number(change.value, True), bounds,
                 number(c.p_holm)]  # fmt: skip
        mark = MARK.get(c.verdict, "") if c.firm else ""
        rows.append(" & ".join([tex(c.metric) + arrow, *(_sign(cell) for cell in cells), mark]) + r" \\")
    caption = (
        f"Scores of {tex(head.candidate)} against {tex(head.baseline)}, paired by prompt and seed "
        f"({head.changes[0].change.n} pairs). "
        "Change with its 95\\,\\% interval over prompts; $p$ after Holm's correction."
    )
    columns = f"metric & {tex(head.baseline)} & {tex(head.candidate)} & change & 95\\,\\% & $p$ & "
    return _table("lrrrrrl", columns, rows, caption, "scores")


def _mark(result: object) -> str:
    return MARK.get(getattr(result, "verdict", ""), "") if getattr(result, "firm", False) else ""


def _table(layout: str, columns: str, rows: list[str], caption: str, label: str) -> str:
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\label{{tab:pixeval-{label}}}",
            rf"\begin{{tabular}}{{{layout}}}",
            r"\toprule",
            columns + r"\\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )
