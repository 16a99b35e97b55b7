"""The catalogue as the table of ``docs/metrics.md``: ``python -m pixeval.metric_docs docs/metrics.md`` rewrites it."""

import math
import sys
from pathlib import Path

from pixeval.catalog import CATALOG
from pixeval.metric_spec import FAMILIES, Family, MetricSpec

BEGIN, END = "<!-- catalogue: begin, made by python -m pixeval.metric_docs -->", "<!-- catalogue: end -->"

TITLES: dict[Family, str] = {
    "quality": "Quality: one image, no prompt",
    "flaws": "Flaws: one image, with a heat map",
    "alignment": "Alignment: image and prompt",
    "distribution": "Distribution: a set against a reference set",
    "reference": "Reference: an image against its own reference",
}


def catalogue_tables() -> str:
    """One Markdown table per family."""
    blocks = []
    for family in FAMILIES:
        rows = [_row(spec) for spec in CATALOG if spec.family == family]
        head = ["| metric | better | range | measures | when not to trust it | source |", "|---|---|---|---|---|---|"]
        if family == "flaws":
            head = [head[0] + " drawn in full from |", head[1] + "---|"]
        blocks.append("\n".join([f"### {TITLES[family]}", "", *head, *rows]))
    return "\n\n".join(blocks)


def _row(spec: MetricSpec) -> str:
    better = "higher" if spec.higher_is_better else "lower"
    return (
        f"| `{spec.name}` | {better} | {_bound(spec.low, '(')}, {_bound(spec.high, ')')} | {spec.summary} "
        f"| {spec.caution} | {spec.citation} |" + (f" {spec.full_heat:g} |" if spec.family == "flaws" else "")
    )


def _bound(value: float, open_bracket: str) -> str:
    closed = {"(": "[", ")": "]"}[open_bracket]
    shown = "∞" if value == math.inf else "-∞" if value == -math.inf else f"{value:g}"
    bracket = open_bracket if math.isinf(value) else closed
    return bracket + shown if open_bracket == "(" else shown + bracket


def with_catalogue(text: str) -> str:
    """``text`` with everything between the two marks replaced by the tables of now."""
    before, found, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise ValueError(f"the marks {BEGIN!r} and {END!r} must both be there, in this order")
    return f"{before}{BEGIN}\n\n{catalogue_tables()}\n\n{END}{after}"


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(with_catalogue(page.read_text()))
