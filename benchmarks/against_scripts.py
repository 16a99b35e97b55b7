"""Steps of the bundled U-Net under the diffusers example scripts and under these trainers: time and memory.

    python benchmarks/against_scripts.py --text-to-image FILE --dpo FILE [--python PYTHON] --out work/scripts.json

FILE are ``examples/text_to_image/train_text_to_image.py`` and ``examples/research_projects/diffusion_dpo/
train_diffusion_dpo.py`` of the diffusers repository. They need packages that this project does not (the second one
imports wandb); PYTHON is an interpreter that has them beside the same torch and diffusers.

Same model, images, batch, precision and optimiser. Every case runs in a process of its own, all of them one after the
other in each round. The time of a step is that between two steps of the optimiser, so it holds whatever is done for a
batch; the shortest one counts, for other work on the machine only adds. Memory is the peak of the process's resident
memory while it steps, over what it was before anything was loaded. The preference script trains LoRA of rank 4 only,
and so do the cases beside it. Prints a Markdown table.
"""

import argparse
import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from train_plan import resident, write_data

BATCH, PAIRS, SIDE = 8, 4, 128
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "script": ("sft", {}),
    "latent": ("sft", {"objective": "latent"}),
    "both, window of a quarter": ("sft", {"objective": "both", "decode_crop": 64}),
    "both, window of a quarter, checkpoints": (
        "sft", {"objective": "both", "decode_crop": 64, "decoder_checkpointing": True},
    ),
    "both, window of a quarter, bf16": ("sft", {"objective": "both", "decode_crop": 64, "bf16_decoder": True}),
    "pixel, window of a quarter": ("sft", {"objective": "pixel", "decode_crop": 64}),
    "both, whole": ("sft", {"objective": "both"}),
    "DPO script": ("preference", {}),
    "DPO latent": ("preference", {"objective": "latent"}),
    "DPO latent, 2 draws": ("preference", {"objective": "latent", "reference_draws": 2}),
    "DPO both, window of a quarter": ("preference", {"objective": "both", "decode_crop": 64}),
    "DPO both, whole": ("preference", {"objective": "both"}),
}  # fmt: skip
"""Name -> (data, settings); without settings, the script's."""
COMPARED = {"sft": ("script", "latent"), "preference": ("DPO script", "DPO latent")}
WARM = 3
"""Steps that do not count."""


def prepare(folder: Path) -> None:
    """The data of the plan's benchmark, and the pairs again as Pick-a-Pic publishes them."""
    import pyarrow as pa
    from pyarrow import parquet

    write_data(folder)
    images = sorted((folder / "sft").glob("*.png"), key=lambda file: int(file.stem))
    rows = [{"file_name": file.name, "text": file.with_suffix(".txt").read_text()} for file in images]
    (folder / "sft" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for file in images:
        file.with_suffix(".txt").unlink()
    half = len(images) // 2
    table = {
        "jpg_0": [images[2 * i].read_bytes() for i in range(half)],
        "jpg_1": [images[2 * i + 1].read_bytes() for i in range(half)],
        "label_0": [1.0] * half,
        "label_1": [0.0] * half,
        "caption": [rows[2 * i]["text"] for i in range(half)],
    }
    (folder / "published").mkdir()
    parquet.write_table(pa.table(table), folder / "published" / "train-00000-of-00001.parquet")


def script_words(kind: str, model: str, data: Path, out: str, steps: int) -> list[str]:
    """Arguments of the scripts."""
    words = ["--pretrained_model_name_or_path", model, "--output_dir", out, "--max_train_steps", str(steps)]
    words += ["--resolution", str(SIDE), "--checkpointing_steps", "1000000", "--seed", "0"]
    words += ["--learning_rate", "1e-6", "--lr_warmup_steps", "0", "--lr_scheduler", "constant"]
    if kind == "sft":
        return [*words, "--train_data_dir", str(data / "sft"), "--train_batch_size", str(BATCH), "--center_crop"]
    words += ["--dataset_name", str(data / "published"), "--dataset_split_name", "train", "--rank", "4", "--no_hflip"]
    return [*words, "--train_batch_size", str(PAIRS), "--vae_encode_batch_size", str(2 * PAIRS)]


def train(kind: str, settings: dict[str, Any], model: str, data: Path, out: str, steps: int) -> None:
    """Our own."""
    from trainers.preference import PreferenceConfig, train_preference
    from trainers.sft import SftConfig, train_sft

    common: dict[str, Any] = {
        "model": Path(model), "out": Path(out), "steps": steps, "device": "cpu", "checkpoint_every": 1000000,
        "learning_rate": 1e-6, "self_test": False, **settings,
    }  # fmt: skip
    if kind == "sft":
        train_sft(SftConfig(data=data / "sft", batch_size=BATCH, **common))
    else:
        train_preference(
            PreferenceConfig(data=data / "published", batch_size=PAIRS, method="dpo", lora_rank=4, **common)
        )


def measure(case: str, script: str, data: Path, steps: int) -> dict[str, float]:
    """Run a case in this process; seconds of the shortest and of the median step, and bytes of memory."""
    import accelerate  # noqa: F401  (what all cases import is no part of their memory)
    import datasets  # noqa: F401
    import diffusers  # noqa: F401
    import transformers  # noqa: F401
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from pixeval.pipelines import resolve_model

    before = resident("VmRSS")
    times: list[float] = []
    peaks: list[int] = []

    def stepped(*_: Any) -> None:
        times.append(time.perf_counter())
        if len(times) == WARM:
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        peaks.append(resident("VmHWM"))

    register_optimizer_step_post_hook(stepped)
    kind, settings = CASES[case]
    model, out = str(resolve_model("zoo:unet")), tempfile.mkdtemp()
    if settings:
        train(kind, settings, model, data, out, steps)
    else:
        sys.argv = [script, *script_words(kind, model, data, out, steps)]
        runpy.run_path(script, run_name="__main__")
    passed = [b - a for a, b in zip(times[WARM - 1 :], times[WARM:], strict=False)]
    return {
        "seconds": min(passed),
        "median": statistics.median(passed),
        "peak": peaks[-1] - before,
        "steps": len(passed),
    }


def in_process(python: str, words: list[str]) -> dict[str, float]:
    """A case in a process of its own; what it prints as its last line."""
    here = str(Path(__file__).parents[1])
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "PYTHONPATH": here}
    done = subprocess.run([python, __file__, *words], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """The shortest step of all rounds, and the median memory, as Markdown."""
    seconds = {case: min(row["seconds"] for row in rows) for case, rows in results.items()}
    peaks = {case: statistics.median(row["peak"] for row in rows) for case, rows in results.items()}
    lines = ["| case | ms per step | rounds | of the script's | of our latent | MiB | of the script's |"]
    lines.append("|" + "---|" * 7)
    for case, rows in results.items():
        script, latent = COMPARED[CASES[case][0]]
        rounds = ", ".join(f"{1000 * row['seconds']:.0f}" for row in rows)
        times = [f"{seconds[case] / seconds[base]:.2f}" if base in seconds else "" for base in (script, latent)]
        memory = f"{peaks[case] / peaks[script]:.2f}" if script in peaks else ""
        lines.append(
            f"| {case} | {1000 * seconds[case]:.0f} | {rounds} | {times[0]} | {times[1]} | "
            f"{peaks[case] / 2**20:.0f} | {memory} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure all cases in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text-to-image", default="")
    parser.add_argument("--dpo", default="")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--out", type=Path, default=Path("work/against-scripts.json"))
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    scripts = {"sft": options.text_to_image, "preference": options.dpo}
    if options.measure:
        script = scripts[CASES[options.measure][0]]
        print("\n" + json.dumps(measure(options.measure, script, options.data, options.steps)))
        return
    results: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        prepare(data)
        common = ["--data", str(data), "--steps", str(options.steps)]
        for _ in range(options.rounds):
            for case in options.cases:
                kind, settings = CASES[case]
                if not settings and not scripts[kind]:
                    continue
                given = ["--text-to-image", options.text_to_image, "--dpo", options.dpo]
                found = in_process(options.python, ["--measure", case, *given, *common])
                results.setdefault(case, []).append(found)
                print(case, found, file=sys.stderr, flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"cores": os.cpu_count(), "cases": results}, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
