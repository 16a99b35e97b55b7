"""Scoring many images: throughput, memory by number of images, and scoring again against scoring.

    python benchmarks/score_many.py --images 10000 --metrics contrast noise blur_flaw --out work/score-many

Writes a set of mixed icons (PNG, JPEG and WebP at 128 and 256 px, each image different in its bytes), scores it with
``pixeval score`` in processes of its own, and prints one JSON object. Ratios are of one machine in one call. With
``--kills 2`` the set is scored once more and the process killed (SIGKILL) after a third and two thirds of the time; the
table must have one row per image and metric in the end, and the bytes of the uninterrupted one.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pixeval.runs import Run
from pixeval.zoo.icons import load_icons


def write_images(folder: Path, count: int) -> None:
    """``count`` different images; what is there already is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    icons = load_icons("train").images
    for number in range(count):
        extension, options = (("png", {"compress_level": 1}), ("jpg", {"quality": 92}), ("webp", {"quality": 90}))[
            number % 3
        ]
        path = folder / f"{number:06d}.{extension}"
        if path.exists():
            continue
        array = icons[number % len(icons)].copy()
        array[:4, :4] = np.random.default_rng(number).integers(0, 256, (4, 4, 3))
        image = Image.fromarray(array)
        (image if number % 2 else image.resize((256, 256))).save(path, **options)


def timed(arguments: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Seconds and peak megabytes of a ``pixeval`` command."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "pixeval", *arguments], env=environment, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"pixeval {' '.join(arguments)} ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def killed(arguments: list[str], environment: dict[str, str], kills: int, seconds: float) -> float:
    """Kill a ``pixeval`` command ``kills`` times and let it end then; returns the seconds of all its lives."""
    started = time.perf_counter()
    for _ in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-m", "pixeval", *arguments], env=environment, stdout=subprocess.DEVNULL
        )
        try:
            process.wait(seconds / (kills + 1))
            raise SystemExit("the command ended before it could be killed; give more images")
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    timed(arguments, environment)
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--metrics", nargs="+", default=["quality", "flaws"])
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("work/score-many"))
    options = parser.parse_args()
    result: dict[str, Any] = {"metrics": options.metrics, "cores": os.cpu_count()}
    for count in (options.images // 10, options.images):
        images, scores, cache = (options.out / f"{name}-{count}" for name in ("images", "scores", "cache"))
        write_images(images, count)
        shutil.rmtree(scores, ignore_errors=True)
        shutil.rmtree(cache, ignore_errors=True)
        environment = os.environ | {"PIXEVAL_CACHE": str(cache)}
        words = ["score", str(images), "--out", str(scores), "--metrics", *options.metrics]
        first, peak = timed(words, environment)
        again, _ = timed(words, environment)
        table = (scores / "scores.parquet").read_bytes()
        shutil.rmtree(scores)
        cached, _ = timed(words, environment)
        result[str(count)] = {
            "seconds": round(first, 1),
            "images_per_second": round(count / first, 2),
            "peak_megabytes": round(peak),
            "unchanged_run_seconds": round(again, 1),
            "scoring_over_unchanged_run": round(first / again, 1),
            "new_run_from_cache_seconds": round(cached, 1),
            "scoring_over_cache": round(first / cached, 1),
        }
        if options.kills and count == options.images:
            shutil.rmtree(scores)
            uncached = [*words, "--cache", "none"]
            seconds = killed(uncached, environment, options.kills, first)
            whole = (scores / "scores.parquet").read_bytes()
            rows = len(Run.open(scores).scores())
            result["killed"] = {"kills": options.kills, "seconds": round(seconds, 1), "rows": rows}
            result["killed"] |= {"equal_bytes": whole == table}
        print(json.dumps(result), file=sys.stderr, flush=True)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
