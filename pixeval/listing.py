"""``pixeval list``: what can be named on the command line, without importing torch."""

import math
import tomllib
from dataclasses import dataclass
from typing import Any, Literal

from pixeval.catalog import CATALOG
from pixeval.zoo import BUNDLED


@dataclass(frozen=True)
class ListConfig:
    """Metrics, bundled models and prompt suites."""

    what: Literal["all", "metrics", "models", "suites"] = "all"


def listing(config: ListConfig) -> dict[str, Any]:
    """Everything that has a name, as JSON can hold it; unbounded ends of ranges are None."""
    found: dict[str, Any] = {}
    if config.what in ("all", "metrics"):
        found["metrics"] = [
            {
                "name": spec.name,
                "family": spec.family,
                "better": "higher" if spec.higher_is_better else "lower",
                "range": [_bound(spec.low), _bound(spec.high)],
                "needs": list(spec.needs),
                "summary": spec.summary,
                "citation": spec.citation,
            }
            for spec in CATALOG
        ]
    if config.what in ("all", "models"):
        found["models"] = [{"name": name, "installed": folder.is_dir()} for name, folder in BUNDLED.items()]
    if config.what in ("all", "suites"):
        from pixeval.suites import SUITES

        found["suites"] = [
            {"name": path.stem, "prompts": len(tomllib.loads(path.read_text())["prompt"])}
            for path in sorted(SUITES.glob("*.toml"))
        ]
    return found


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
        lines += ["", "prompt suites", *(f"  {row['name']}  {row['prompts']} prompts" for row in found["suites"])]
    return "\n".join(lines).strip("\n")


def _bound(value: float) -> float | None:
    return None if math.isinf(value) else value
