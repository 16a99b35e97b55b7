"""Generate images for prompts x seeds into a run; can be killed and run again."""

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tqdm import tqdm
from tyro.conf import Positional

from pixeval.errors import InputError
from pixeval.images import write_png
from pixeval.pipelines import Sampler, load_generator
from pixeval.protocols import Generator
from pixeval.records import Prompt, Sample, sample_id
from pixeval.runs import Run
from pixeval.suites import load_prompts


@dataclass(frozen=True)
class GenerateConfig:
    """Images from one model."""

    model: Positional[str]
    """``zoo:unet``, ``zoo:dit``, a local pipeline folder, or a hub name."""
    prompts: Positional[str]
    """A bundled suite's name, a file of prompts (.txt, .csv, .jsonl, .toml), or a published suite as NAME=PATH."""
    out: Path
    """The run folder to write."""
    label: str = "base"
    """What these images are called in tables and reports."""
    seeds: tuple[int, ...] = (0,)
    """One image per prompt and seed."""
    sampler: Sampler = field(default_factory=Sampler)
    batch_size: int = 8
    device: str = "cpu"


def generate(config: GenerateConfig) -> Run:
    """Write the run of ``config``; images that are there already are kept."""
    prompts = load_prompts(config.prompts)
    if not config.seeds:
        raise InputError("no seeds given; --seeds 0 makes one image per prompt")
    generator = load_generator(config.model, config.sampler, config.device)
    settings = {k: v for k, v in asdict(config).items() if k not in ("out", "device")}
    run = Run.create(config.out, "generate", settings)
    generate_into(run, generator, prompts, config.seeds, config.label, config.batch_size)
    return run


def generate_into(
    run: Run, generator: Generator, prompts: list[Prompt], seeds: tuple[int, ...], label: str, batch_size: int
) -> list[Sample]:
    """Add one image per prompt and seed to ``run`` under ``label``; returns the samples of this label.

    Batches are always cut the same way, and a batch with a missing or changed image is made again as a whole,
    so an interrupted run ends in the same files as an uninterrupted one.
    """
    run.add_prompts(prompts)
    others = [s for s in run.samples() if s.label != label]
    known = {s.id: s for s in run.samples() if s.label == label and run.image(s).exists()}
    tasks = [(prompt, seed) for prompt in prompts for seed in seeds]
    done: list[Sample] = []
    batches = [tasks[i : i + batch_size] for i in range(0, len(tasks), batch_size)]
    for batch in tqdm(batches, desc=f"generate {label}", unit="batch", file=sys.stderr, disable=None):
        ids = [sample_id(generator.fingerprint, prompt.id, seed, label) for prompt, seed in batch]
        if all(i in known for i in ids):
            done += [known[i] for i in ids]
            continue
        images = generator([prompt.text for prompt, _ in batch], [seed for _, seed in batch])
        for (prompt, seed), identity, image in zip(batch, ids, images, strict=True):
            path = f"images/{identity}.png"
            digest = write_png(image, run.path / path)
            done.append(Sample(identity, label, prompt.id, prompt.text, seed, generator.fingerprint, path, digest))
        written = {sample.id for sample in done}
        run.write_samples(others + done + [sample for sample in known.values() if sample.id not in written])
    run.write_samples(others + done)
    return done
