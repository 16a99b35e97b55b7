"""``pixeval list``: what can be named on the command line, without importing torch."""

import math
import textwrap
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from pixeval.catalog import CATALOG
from pixeval.metric_spec import MetricSpec
from pixeval.published_suites import PUBLISHED
from pixeval.suites import load_prompts, suite_names
from pixeval.zoo import BUNDLED


@dataclass(frozen=True)
class ListConfig:
    """Metrics, bundled models and prompt suites."""

    what: Literal["all", "metrics", "models", "suites"] = "all"


def listing(config: ListConfig) -> dict[str, Any]:
    """Everything that has a name, as JSON can hold it; unbounded ends of ranges are None."""
    found: dict[str, Any] = {}
    if config.what in ("all", "metrics"):
        found["metrics"] = [metric_row(spec) for spec in CATALOG]
    if config.what in ("all", "models"):
        found["models"] = [{"name": name, "installed": folder.is_dir()} for name, folder in BUNDLED.items()]
    if config.what in ("all", "suites"):
        found["suites"] = [_suite(name) for name in suite_names()]
        found["published_suites"] = [
            {
                "name": suite.name,
                "prompts": suite.prompts,
                "carries": suite.carries,
                "expects": suite.expects,
                "source": suite.source,
                "hub": None if suite.hub is None else suite.hub.dataset,
                "citation": suite.citation,
            }
            for suite in PUBLISHED
        ]
    return found


def metric_row(spec: MetricSpec) -> dict[str, Any]:
    """What the list says about a metric, as JSON can hold it; unbounded ends of the range are None."""
    return {
        "name": spec.name,
        "family": spec.family,
        "better": "higher" if spec.higher_is_better else "lower",
        "range": [_bound(spec.low), _bound(spec.high)],
        "needs": list(spec.needs),
        "summary": spec.summary,
        "citation": spec.citation,
    }


def _suite(name: str) -> dict[str, Any]:
    """A bundled suite: prompts, how many carry a tag (most frequent first), questions, prompts with objects."""
    prompts = load_prompts(name)
    return {
        "name": name,
        "prompts": len(prompts),
        "questions": sum(len(prompt.questions) for prompt in prompts),
        "with_objects": sum(bool(prompt.objects) for prompt in prompts),
        "tags": dict(Counter(tag for prompt in prompts for tag in prompt.tags).most_common()),
    }


def render(found: dict[str, Any]) -> str:
    """The listing for a terminal."""
    lines: list[str] = []
    if "metrics" in found:
        width = max(len(row["name"]) for row in found["metrics"])
        family = ""
        for row in found["metrics"]:
            if row["family"] != family:
                family = row["family"]
                lines += ["", family]
            arrow = "↑" if row["better"] == "higher" else "↓"
            needs = f"  [needs {', '.join(row['needs'])}]" if row["needs"] else ""
            lines.append(f"  {row['name']:{width}} {arrow} {row['summary']}{needs}")
    if "models" in found:
        lines += ["", "models", *(f"  {row['name']}" for row in found["models"] if row["installed"])]
    if "suites" in found:
        lines += ["", "prompt suites (bundled)"]
        for row in found["suites"]:
            lines.append(f"  {row['name']}  {row['prompts']} prompts, {row['questions']} questions")
            tags = ", ".join(f"{tag} {count}" for tag, count in row["tags"].items())
            lines += textwrap.wrap(tags, 100, initial_indent="    ", subsequent_indent="    ")
        lines += ["", "prompt suites (published: give NAME=PATH, or NAME=hub where marked)"]
        for row in found["published_suites"]:
            hub = ", hub" if row["hub"] else ""
            lines.append(f"  {row['name']:14} {row['prompts']} prompts with {row['carries']}{hub}  {row['expects']}")
    return "\n".join(lines).strip("\n")


def _bound(value: float) -> float | None:
    return None if math.isinf(value) else value
