"""Training steps of the bundled models, measured, beside what ``pixeval train ... --plan`` predicts of them.

    python benchmarks/train_plan.py --steps 8 --out work/train-plan.json

Every case runs in a process of its own. Measured are the peak of what torch allocates in a step (the profiler on the
CPU, ``max_memory_allocated`` on CUDA) with the weights and the optimiser's state, the growth of the process's peak
resident memory over its size before the model was loaded, the arithmetic as torch's FLOP counter has it, and the
shortest time of a step, for other work on the machine only adds. The plan rehearses anew, unless PIXEVAL_CACHE names a
folder. Prints a Markdown table and writes everything as JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

ROWS = 16
"""Images, or pairs, that are trained on."""
CASES: dict[str, dict[str, Any]] = {
    "latent": {"objective": "latent"},
    "pixel": {"objective": "pixel"},
    "pixel, window of a quarter": {"objective": "pixel", "decode_crop": 64},
    "both": {"objective": "both"},
    "both, window of a quarter": {"objective": "both", "decode_crop": 64},
    "both, checkpoints": {"objective": "both", "decoder_checkpointing": True},
    "both, window and checkpoints": {"objective": "both", "decode_crop": 64, "decoder_checkpointing": True},
    "both, every 4th step": {"objective": "both", "pixel_every": 4},
    "DPO latent": {"method": "dpo", "objective": "latent"},
    "DPO pixel": {"method": "dpo", "objective": "pixel"},
    "DPO both": {"method": "dpo", "objective": "both"},
    "DPO both, window of a quarter": {"method": "dpo", "objective": "both", "decode_crop": 64},
    "DPO both, 2 draws": {"method": "dpo", "objective": "both", "reference_draws": 2},
    "SimPO both": {"method": "simpo", "objective": "both"},
    "both, LoRA 8, EMA": {"objective": "both", "lora_rank": 8, "ema": 0.99},
    "both, bf16": {"objective": "both", "mixed_precision": "bf16"},
}


def write_data(folder: Path) -> None:
    """Icons with captions in ``sft/`` and as pairs in ``pairs/``."""
    from PIL import Image

    from pixeval.pair_folder import export_pairs
    from pixeval.records import Pair
    from pixeval.zoo.icons import load_icons

    icons = load_icons("train")
    (folder / "sft").mkdir(parents=True)
    for number in range(2 * ROWS):
        Image.fromarray(icons.images[number]).save(folder / "sft" / f"{number}.png")
        (folder / "sft" / f"{number}.txt").write_text(f"an icon, number {number}")
    paths = [str(folder / "sft" / f"{number}.png") for number in range(2 * ROWS)]
    pairs = [
        Pair(f"p{i}", f"an icon, number {i}", f"c{i}", f"r{i}", paths[2 * i], paths[2 * i + 1], "a", "b", 1.0, "votes")
        for i in range(ROWS)
    ]
    export_pairs(pairs, folder / "pairs", "benchmark")


def configuration(model: str, case: dict[str, Any], data: Path, device: str) -> Any:
    """Settings of a case, of SFT or of preference tuning."""
    from trainers.preference import PreferenceConfig
    from trainers.sft import SftConfig

    preference = "method" in case
    kind = PreferenceConfig if preference else SftConfig
    config = kind(
        model=Path(model), data=data / ("pairs" if preference else "sft"), out=Path(tempfile.mkdtemp()) / "run",
        batch_size=4 if preference else 8, device=device, self_test=False,
    )  # fmt: skip
    return replace(config, **case)


def measure(model: str, case: dict[str, Any], data: Path, device: str, steps: int) -> dict[str, float]:
    """Run some steps of the real loss and optimiser; seconds of the shortest step, and bytes at the peak."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from pixeval.pipelines import resolve_model
    from trainers.data import captioned_latents, paired_latents
    from trainers.lora import copy_of_trained
    from trainers.optimizer_step import optimizer_step, update_average
    from trainers.preference import measure_reference, preference_loss
    from trainers.sft import sft_loss
    from trainers.start import start

    torch.zeros(1, device="cpu" if device == "cpu" else "cuda")
    before = resident("VmRSS")
    config = configuration(model, case, data, device)
    config = replace(config, model=Path(resolve_model(str(config.model))))
    preference = "method" in case
    read: Any = paired_latents if preference else captioned_latents
    begun: Any = start(config, "preference" if preference else "sft", read)
    reference_seconds = time.perf_counter()
    if preference:
        reference = measure_reference(begun.model, begun.data, config, begun.composition, begun.run.path)
        loss = preference_loss(begun.model, begun.data, config, begun.composition, reference)
    else:
        loss = sft_loss(begun.model, begun.data, config, begun.composition)
    reference_seconds = time.perf_counter() - reference_seconds
    denoiser = begun.model.denoiser.train()
    learned = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-6)
    average = None if config.ema is None else copy_of_trained(denoiser).eval()
    wrapped, stepper = begun.accelerator.prepare(denoiser, optimizer)
    times: list[float] = []
    count = steps * config.pixel_every

    def step(number: int) -> None:
        optimizer_step(wrapped, stepper, loss, config, number, begun.accelerator)
        if average is not None:
            update_average(average, denoiser, config.ema, number)

    for number in range(2 * config.pixel_every + count):
        started = time.perf_counter()
        step(number)
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    timed = times[2 * config.pixel_every :]
    chunks = [sum(timed[i : i + config.pixel_every]) / config.pixel_every for i in range(0, count, config.pixel_every)]
    stepper.zero_grad()
    with FlopCounterMode(display=False) as counter:
        for number in range(config.pixel_every):
            step(number)
    stepper.zero_grad()
    if device == "cpu":
        kept = kept_bytes(begun.model, optimizer, average, loss)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            step(0)
        peak = kept + peak_of(profile)
    else:
        torch.cuda.reset_peak_memory_stats()
        step(0)
        peak = torch.cuda.max_memory_allocated()
    return {
        "seconds": min(chunks),
        "median": statistics.median(chunks),
        "flops": counter.get_total_flops() / config.pixel_every,
        "peak": peak,
        "resident": resident("VmHWM") - before,
        "reference_seconds": reference_seconds,
    }


def kept_bytes(model: Any, optimizer: Any, average: Any, loss: Any) -> int:
    """Bytes of all weights and of the optimiser's state, each tensor once; of the reference too, which the loss holds.

    ``loss`` is the closure that the trainer made; a copy of the denoiser in it is found by what it refers to.
    """
    from torch import Tensor, nn

    modules = [part for part in model.pipeline.components.values() if isinstance(part, nn.Module)]
    modules += [] if average is None else [average]
    for cell in loss.__closure__ or ():
        held = getattr(cell.cell_contents, "reference", None)
        modules += [held] if isinstance(held, nn.Module) else []
    tensors = [t for module in modules for t in (*module.parameters(), *module.buffers())]
    tensors += [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
    return sum({t.data_ptr(): t.numel() * t.element_size() for t in tensors}.values())


def peak_of(profile: Any) -> int:
    """The most that was allocated at once since the profile began."""
    from torch._C._profiler import _EventType

    changes: list[tuple[int, int]] = []
    events = list(profile.profiler.kineto_results.experimental_event_tree())
    while events:
        event = events.pop()
        events.extend(event.children)
        if event.tag == _EventType.Allocation:
            changes.append((event.start_time_ns, event.extra_fields.alloc_size))
    live = most = 0
    for _, change in sorted(changes, key=lambda pair: pair[0]):
        live += change
        most = max(most, live)
    return most


def decoders(size: int) -> Iterator[dict[str, Any]]:
    """The bundled decoder at a large size: bytes allocated by decoding with gradient, measured and planned."""
    import torch

    from pixeval.pipelines import resolve_model
    from trainers.decoder_checkpoints import checkpoint_decoder
    from trainers.families.detect import load
    from trainers.plan import plan

    model: Any = load(Path(resolve_model("zoo:unet")))
    config = replace(configuration("zoo:unet", {}, Path(), "cpu"), resolution=size, batch_size=1, plan_tflops=1.0)
    planned = plan(config)["decoder_activations"]
    factor = model.pipeline.vae_scale_factor
    for checkpointed in (False, True):
        if checkpointed:
            checkpoint_decoder(model.vae)
        for name, side in (("whole", size), ("quarter_area", size // 2)):
            z = torch.randn(1, model.vae.config.latent_channels, side // factor, side // factor, requires_grad=True)
            seconds = []
            for profiled in (False, True):
                started = time.perf_counter()
                with torch.profiler.profile(profile_memory=True) as profile:
                    model.decode(z).square().mean().backward()
                seconds.append(time.perf_counter() - started)
                z.grad = None
                peak = peak_of(profile) if profiled else 0
            name_of = name + ("_checkpointed" if checkpointed else "")
            yield {"decoder": name_of, "peak": peak, "planned": planned[name_of], "seconds": min(seconds)}


def resident(name: str) -> int:
    """VmRSS or VmHWM of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0


def in_process(words: list[str]) -> Any:
    """What this script prints, in a process of its own, as its last line of JSON."""
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, env=os.environ)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def table(results: list[dict[str, Any]]) -> str:
    """The cases as Markdown."""
    head = (
        "| model | case | peak MiB | planned | ratio | resident MiB | GFLOP | planned | ratio | ms | planned | ratio |"
    )
    lines = [head, "|" + "---|" * 12]
    for row in results:
        found, planned = row["measured"], row["plan"]
        pairs = [
            (found["peak"] / 2**20, planned["peak_memory"] / 2**20),
            (found["flops"] / 1e9, planned["flops"]["step"] / 1e9),
            (1000 * found["seconds"], 1000 * planned["seconds"]["step"]),
        ]
        columns = [f"{found:.0f} | {planned:.0f} | {planned / found:.2f}" for found, planned in pairs]
        columns.insert(1, f"{row['measured']['resident'] / 2**20:.0f}")
        lines.append(f"| {row['model']} | {row['case']} | {' | '.join(columns)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, plan, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--models", nargs="+", default=["zoo:unet", "zoo:dit"])
    parser.add_argument("--decoder-size", type=int, default=512)
    parser.add_argument("--out", type=Path, default=Path("work/train-plan.json"))
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--plan", help=argparse.SUPPRESS)
    parser.add_argument("--decoders", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        model, case = options.measure
        print(json.dumps(measure(model, CASES[case], options.data, options.device, options.steps)))
        return
    if options.plan:
        from trainers.plan import plan

        cases = {case: plan(configuration(options.plan, CASES[case], Path(), options.device)) for case in options.cases}
        print(json.dumps(cases))
        return
    if options.decoders:
        print(json.dumps(list(decoders(options.decoder_size))))
        return
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("PIXEVAL_CACHE", f"{folder}/cache")
        write_data(Path(folder) / "data")
        common = ["--data", f"{folder}/data", "--device", options.device, "--steps", str(options.steps)]
        for model in options.models:
            plans = in_process(["--plan", model, "--cases", *options.cases, *common])
            for case in options.cases:
                measured = in_process(["--measure", model, case, *common])
                results.append({"model": model, "case": case, "measured": measured, "plan": plans[case]})
                print(table(results[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    found = {"cores": os.cpu_count(), "cases": results}
    if options.device == "cpu" and options.decoder_size:
        found["decoders"] = in_process(["--decoders", "--decoder-size", str(options.decoder_size)])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
