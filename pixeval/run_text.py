"""A run as text for a terminal: what a verb prints when it has finished one."""

from collections import Counter

from pixeval.runs import Run


def render(finished: Run) -> str:
    """Where a run is and what it holds."""
    counts = Counter(sample.label for sample in finished.samples())
    images = ", ".join(f"{n} {label}" for label, n in counts.items()) or "no images"
    checkpoints = sorted(path.name for path in (finished.path / "checkpoints").glob("step-*"))
    lines = [f"run         {finished.path}", f"images      {images}"]
    if checkpoints:
        lines.append(f"checkpoints {', '.join(checkpoints)}")
    return "\n".join(lines)
