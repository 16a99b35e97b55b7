"""The results as a Hugging Face model card takes them: ``model-index`` and the newer ``eval_results.yaml``. Pure.

Neither format has a place for intervals, so they stand in the metric's name and in the notes.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from reports.figures import number, percent

NOTICE = "# Results of a pixeval report. Put the hub name of your prompt set in the place of local/..."


def model_card_yaml(summary: Mapping[str, Any]) -> tuple[str, str]:
    """``model-index.yaml`` (for the head of a README.md) and ``eval_results.yaml`` (for ``.eval_results/``).

    Args:
        summary: as :func:`reports.summary.summary_of` makes it.
    """
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", summary["run"]).strip("-.") or "run"
    results = _results(summary)
    dataset = {"name": summary["run"], "type": f"local/{slug}"}
    task = {"type": "text-to-image", "name": "Text to image"}
    metrics = [{"type": r["type"], "name": r["name"], "value": r["value"], "verified": False} for r in results]
    index = [{"name": slug, "results": [{"task": task, "dataset": dataset, "metrics": metrics}] if metrics else []}]
    entries = [
        {
            "dataset": {"id": f"local/{slug}", "task_id": r["type"]},
            "value": r["value"],
            "date": summary["built"],
            "notes": r["notes"],
        }
        for r in results
    ]
    return f"{NOTICE}\n" + yaml({"model-index": index}), f"{NOTICE}\n" + yaml(entries)


def _results(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    if not summary["comparisons"]:
        return []
    head = summary["comparisons"][0]
    against = f"{head['candidate']} against {head['baseline']}"
    found = []
    for vote in head["votes"]:
        net = vote["net"]
        bounds = _bounds(net, lambda v: percent(v, True))
        who = "simulated annotators" if vote["simulated"] else "annotators"
        found.append(
            {
                "type": f"net_win_rate_{vote['question']}",
                "name": f"net win rate, {vote['question']} (95 %: {bounds})",
                "value": net["value"],
                "notes": f"{against}; 95 % interval {bounds}; {net['n']} votes on {vote['prompts']} prompts by "
                f"{vote['annotators']} {who}; Holm p {number(vote['p_holm'])}",
            }
        )
    for metric in head["metrics"]:
        change = metric["change"]
        bounds = _bounds(change, lambda v: number(v, True))
        found.append(
            {
                "type": metric["metric"],
                "name": f"{metric['metric']} (change {number(change['value'], True)}, 95 %: {bounds})",
                "value": metric["candidate"],
                "notes": f"{against}; change {number(change['value'], True)}, 95 % interval {bounds}; "
                f"{change['n']} pairs on {metric['prompts']} prompts; Holm p {number(metric['p_holm'])}",
            }
        )
    return found


def _bounds(interval: Mapping[str, Any], show: Any) -> str:
    return "none" if interval["low"] is None else f"{show(interval['low'])} to {show(interval['high'])}"


def yaml(value: Any, indent: int = 0) -> str:
    """YAML of plain values; every text is quoted as in JSON, so that nothing in it can be taken for structure."""
    space = " " * indent
    if isinstance(value, Mapping):
        lines = [f"{space}{_scalar(key)}:{_below(item, indent)}" for key, item in value.items()]
        return "".join(lines)
    return "".join(f"{space}-{_below(item, indent)}" for item in value)


def _below(value: Any, indent: int) -> str:
    if isinstance(value, Mapping | list | tuple):
        return f"\n{yaml(value, indent + 2)}" if value else f" {json.dumps(value)}\n"
    return f" {_scalar(value)}\n"


def _scalar(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", value) and value.lower() not in RESERVED:
        return value
    return json.dumps(value, ensure_ascii=True, allow_nan=False)


RESERVED = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
