"""Scoring folders of images against other toolkits: throughput, start, memory, and whether the numbers are equal.

    python benchmarks/against_peers.py --peers PEERS/bin/python --images 40 --out work/peers

``--peers`` is the Python of an environment of its own with pyiqa, image-evaluator and torchmetrics (none of them is a
dependency of ours for this; pyiqa's licence is non-commercial). Each side scores the same folder with its own command,
in turn, on the same machine; torchmetrics, which has none, is called in a loop as its documentation shows. Every
figure is a ratio within one run. pyiqa's NIQE gets the official parameters that come with pixeval, since nothing is
downloaded.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from statistics import fmean

import numpy as np
from PIL import Image
from safetensors.numpy import load_file
from scipy.io import savemat

NIQE = Path(__file__).resolve().parents[1] / "pixeval" / "zoo" / "quality" / "niqe.safetensors"
PHOTOGRAPHS = ("astronaut.png", "coffee.png", "chelsea.png", "motorcycle_left.png", "ihc.png", "rocket.jpg")
SHARED = {
    "pyiqa": ("psnr", "ssim", "ms_ssim", "niqe", "piqe"),
    "image-evaluator": ("psnr", "ssim"),
    "torchmetrics": ("psnr", "ssim", "ms_ssim"),
}
LOOP = """
import json, sys
from pathlib import Path
import torch
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure as ms_ssim, peak_signal_noise_ratio as psnr,
    structural_similarity_index_measure as ssim)
from torchvision.io import read_image
target, reference = (Path(word) for word in sys.argv[1:3])
of = {"psnr": psnr, "ssim": ssim, "ms_ssim": ms_ssim}
values = {name: [] for name in sys.argv[3:]}
for file in sorted(target.iterdir()):
    a, b = (read_image(str(folder / file.name))[None].float() / 255 for folder in (target, reference))
    for name in values:
        values[name].append(float(of[name](a, b, data_range=1.0)))
print(json.dumps({name: sum(found) / len(found) for name, found in values.items()}))
"""


def write_pairs(folder: Path, count: int, side: int) -> tuple[Path, Path]:
    """``count`` crops of photographs, ``side`` pixels square, and the same with noise, as PNG files."""
    target, reference = folder / "target", folder / "reference"
    for part in (target, reference):
        part.mkdir(parents=True, exist_ok=True)
    data = Path(str(resources.files("skimage"))) / "data"
    for number in range(count):
        rng = np.random.default_rng(number)
        photo = Image.open(data / PHOTOGRAPHS[number % len(PHOTOGRAPHS)]).convert("RGB")
        part = int(min(photo.size) * rng.uniform(0.6, 1.0))
        left, top = (int(rng.integers(0, size - part + 1)) for size in photo.size)
        clean = photo.crop((left, top, left + part, top + part)).resize((side, side), Image.Resampling.BICUBIC)
        noisy = np.asarray(clean, dtype=np.float64) + rng.normal(0, rng.uniform(2, 20), (side, side, 3))
        clean.save(reference / f"{number:04d}.png", compress_level=1)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(target / f"{number:04d}.png", compress_level=1)
    return target, reference


def timed(command: Sequence[str], environment: dict[str, str]) -> tuple[float, float, str]:
    """Seconds, peak megabytes and standard output of a command."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        for file in (out, errors):
            file.seek(0)
        if status:
            raise SystemExit(f"{' '.join(command)} ended with {status}:\n{errors.read()[-2000:]}")
        return seconds, usage.ru_maxrss / 1024, out.read()


def ours(target: Path, reference: Path, metrics: Sequence[str], out: Path) -> list[str]:
    """The command of pixeval, into a fresh folder and without a cache."""
    shutil.rmtree(out, ignore_errors=True)
    words = ["score", str(target), "--reference", str(reference), "--out", str(out), "--cache", "none", "--json"]
    return [sys.executable, "-m", "pixeval", *words, "--metrics", *metrics]


def our_means(output: str) -> dict[str, float]:
    """Mean of every metric in what ``pixeval score --json`` prints."""
    return {row["metric"]: row["mean"] for row in json.loads(output)["images"]}


def pyiqa_means(output: str) -> dict[str, float]:
    """Mean of every metric in what pyiqa's command prints."""
    found = re.findall(r"'(\w+)': \{'mean': (?:np\.float\d+\()?([-\d.e]+)", output)
    return {name: float(value) for name, value in found}


def json_means(output: str) -> dict[str, float]:
    """Means in a JSON object, whatever surrounds them."""
    found = json.loads(output[output.index("{") : output.rindex("}") + 1])
    found = found.get("metrics", found.get("results", found))
    shared = {name: value for name, value in found.items() if name in SHARED["pyiqa"]}
    return {name: float(value["value"] if isinstance(value, dict) else value) for name, value in shared.items()}


def peer_command(peer: str, python: Path, target: Path, reference: Path) -> list[str]:
    """The peer's own command for the metrics that it shares with us."""
    metrics = SHARED[peer]
    if peer == "pyiqa":
        words = [str(python.parent / "pyiqa"), *metrics, "-t", str(target), "-r", str(reference), "--device", "cpu"]
        return words
    if peer == "image-evaluator":
        command = [str(python.parent / "image-evaluator"), "--metrics", *metrics, "--format", "json"]
        return [*command, "--image", str(target), "--reference", str(reference)]
    return [str(python), "-c", LOOP, str(target), str(reference), *metrics]


PARSERS: dict[str, Callable[[str], dict[str, float]]] = {
    "pyiqa": pyiqa_means,
    "image-evaluator": json_means,
    "torchmetrics": json_means,
}


def compared(peer: str, python: Path, folders: Sequence[tuple[Path, Path]], counts: Sequence[int], out: Path) -> object:
    """Both sides on a few and on all images; throughput is that of the additional ones, so that starting is apart."""
    environment = dict(os.environ, TORCH_HOME=str(out / "torch"), OMP_NUM_THREADS=str(os.cpu_count()))
    sides: dict[str, list[tuple[float, float, str]]] = {"pixeval": [], peer: []}
    for target, reference in folders:
        command = ours(target, reference, SHARED[peer], out / "scores")
        sides["pixeval"].append(timed(command, environment))
        sides[peer].append(timed(peer_command(peer, python, target, reference), environment))
    more = counts[1] - counts[0]
    rate = {side: more / (found[1][0] - found[0][0]) for side, found in sides.items()}
    means = {"pixeval": our_means(sides["pixeval"][1][2]), peer: PARSERS[peer](sides[peer][1][2])}
    return {
        "metrics": SHARED[peer],
        "images_per_second": {side: round(value, 2) for side, value in rate.items()},
        "throughput_ratio": round(rate["pixeval"] / rate[peer], 2),
        "command_ratio": round(sides[peer][1][0] / sides["pixeval"][1][0], 2),
        "start_seconds": {s: round(found[0][0] - counts[0] / rate[s], 1) for s, found in sides.items()},
        "peak_megabytes": {s: round(found[1][1]) for s, found in sides.items()},
        "means": {s: {k: round(v, 4) for k, v in found.items()} for s, found in means.items()},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--names", nargs="+", default=list(SHARED))
    parser.add_argument("--out", type=Path, default=Path("work/peers"))
    options = parser.parse_args()
    out = options.out.resolve()
    parameters = load_file(NIQE)
    (out / "torch" / "hub" / "pyiqa").mkdir(parents=True, exist_ok=True)
    official = {"mu_prisparam": parameters["mean"][None], "cov_prisparam": parameters["covariance"]}
    savemat(out / "torch" / "hub" / "pyiqa" / "niqe_modelparameters.mat", official)
    result: dict[str, object] = {"cores": os.cpu_count(), "images": options.images}
    for side in options.sides:
        # as many pixels at every size, so that the slowest side ends within minutes
        count = max(8, options.images * 256**2 // side**2)
        counts = (max(2, count // 4), count)
        folders = [write_pairs(out / f"{side}-{n}", n, side) for n in counts]
        for peer in options.names:
            found = compared(peer, options.peers, folders, counts, out)
            result[f"{peer} {side}"] = found
            print(json.dumps({f"{peer} {side}": found}), file=sys.stderr, flush=True)
    ratios = [v["throughput_ratio"] for v in result.values() if isinstance(v, dict)]
    result["mean_throughput_ratio"] = round(fmean(ratios), 2)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
