"""``python -m trainers.curves OUT``: measure, draw the curves into OUT and write the tables to ``OUT/tables.md``."""

import argparse
import json
from pathlib import Path

from trainers.curves.compare import Compared
from trainers.curves.draw import draw, draw_samples
from trainers.curves.measure import measure
from trainers.curves.page import tables
from trainers.curves.points import all_points


def main() -> None:
    """Measure what is missing, and write everything that follows from the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for numbers.json, what is being trained, and the figures")
    parser.add_argument("--drawn-only", action="store_true", help="train nothing, draw what numbers.json has")
    chosen = parser.parse_args()
    file = chosen.out / "numbers.json"
    found = json.loads(file.read_text()) if chosen.drawn_only else measure(chosen.out)
    compared = Compared(found)
    draw(compared, chosen.out)
    draw_samples(chosen.out / "images", chosen.out / "training_samples.webp")
    (chosen.out / "tables.md").write_text(tables(compared, all_points()))


if __name__ == "__main__":
    main()
