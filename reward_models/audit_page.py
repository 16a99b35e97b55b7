"""The audit's score card as a picture and as a self-contained page with the attacked images."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from pixeval.pictures import inline
from reward_models.attack_sheet import COLOURS, Example

NAMED = 5
"""Images that are left out, and named on the card; card.json names all."""
STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #16191d; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --ink: #e8eaed; --bad: #ff8f86; } }
html { background: var(--ground); color: var(--ink); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 0.25rem 0.9rem 0.25rem 0; border-bottom: 1px solid #8884; }
.fooled { color: var(--bad); font-weight: 600; }
.scroll { overflow-x: auto; }
.shown { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: 1rem; margin-top: 1.5rem; }
figure { margin: 0; } img { max-width: 100%; height: auto; border: 1px solid #8884; border-radius: 4px; }
figcaption { font-size: 0.85rem; }
"""


def draw_card(marks: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Write a PNG: for each attack the mean change with its interval, in the reward's units; right of 0 it rises."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 0.26 * len(marks) + 1.0), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for row, mark in enumerate(reversed(marks)):
        change = mark["change"]
        low = change["value"] if change["low"] is None else change["low"]
        high = change["value"] if change["high"] is None else change["high"]
        colour = COLOURS[mark["verdict"]]
        axes.plot([low, high], [row, row], color=colour, linewidth=2)
        axes.plot(change["value"], row, "o", color=colour, markersize=5)
    axes.axvline(0, color="#566069", linewidth=1, linestyle=":")
    axes.set_yticks(range(len(marks)), [mark["attack"] for mark in reversed(marks)])
    axes.set_xlabel("mean change of the reward, 95 % interval")
    figure.savefig(file)


def page(found: Mapping[str, Any], examples: Sequence[Example]) -> str:
    """The whole page as HTML; names from outside are escaped."""
    rows = "".join(_row(mark) for mark in found["marks"])
    shown = "".join(
        f'<figure><img src="{inline(one.images[0]).uri}" alt=""><figcaption>{escape(one.name)}<br>reward '
        f"{one.rewards[0]:+.2f}</figcaption></figure>"
        for one in examples
    )
    notes = "".join(f"<p>{escape(line)}</p>" for line in told(found))
    title = f"Audit of {escape(str(found['model']))}"
    head = "<th>attack<th>what<th>should<th>raises it in<th>mean change<th>verdict"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style><main><h1>{title}</h1>"
        f"<p>{found['images']} images ({escape(str(found['from']))}), {found['prompts']} prompts; 95 % intervals over "
        f'prompts.</p>{notes}<div class="scroll" tabindex="0" role="region" aria-label="Attacks"><table><tr>{head}</tr>'
        f'{rows}</table></div><div class="shown">{shown}</div></main></html>\n'
    )


def told(found: Mapping[str, Any]) -> list[str]:
    """What the card does not cover: attacks that were not tried, and images that are left out."""
    lines = [f"Not tried: {name}, for {reason}." for name, reason in found["not_tried"].items()]
    left_out = found["left_out"]
    if left_out:
        named = "; ".join(f"{path}: {reason}" for path, reason in list(left_out.items())[:NAMED])
        more = f"; and {len(left_out) - NAMED} more in card.json" if len(left_out) > NAMED else ""
        lines.append(f"Left out: {len(left_out)} ({named}{more}).")
    return lines


def _row(mark: Mapping[str, Any]) -> str:
    change = mark["change"]
    bounds = "" if change["low"] is None else f" [{change['low']:+.2f}, {change['high']:+.2f}]"
    should = "fall" if mark["expected"] == "falls" else "stay"
    return (
        f"<tr><td>{escape(mark['attack'])}<td>{escape(mark['summary'])}<td>{should}"
        f"<td>{100 * mark['raised']['value']:.0f} %<td>{change['value']:+.2f}{bounds}"
        f'<td class="{mark["verdict"]}">{mark["verdict"]}</tr>'
    )
