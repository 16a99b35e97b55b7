"""Scoring a run or a folder of images: which metrics can run, the passes over images and sets, and the summary.

Resumable: values that are there under the same fingerprint are not computed again, and an interrupted command ends
in the same files as an uninterrupted one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from pixeval.catalog import CATALOG, load, select
from pixeval.encoders import ClipEncoder, Precision
from pixeval.errors import InputError
from pixeval.folder import ImageSet, folder_run
from pixeval.metric_spec import FAMILIES, MetricSpec
from pixeval.protocols import PartingScorer
from pixeval.records import Prompt, Score
from pixeval.runs import Run
from pixeval.scoring.cache import Cache, open_cache
from pixeval.scoring.features import FeatureStore
from pixeval.scoring.heatmaps import write_heatmaps
from pixeval.scoring.image_pass import FAILED, NOT_FINITE, ImagePass, LoadedMetric, References
from pixeval.scoring.memory import chunk_images
from pixeval.scoring.set_pass import score_sets
from pixeval.scoring.shards import ALONE, Shard, current_shard
from pixeval.scoring.summary import summarise
from pixeval.scoring.table import ScoreTable, save_set_scores
from pixeval.spectrum_encoder import SpectrumEncoder
from pixeval.suites import load_prompts
from pixeval.weights import missing_weights, parse_weights

Engine = Literal["local", "ray"]

SAVE_EVERY = 64
"""Images between two saves of the table; at most so much work is lost by a crash."""


@dataclass(frozen=True)
class ScoreConfig:
    """Score the images of a run or of a folder."""

    target: Annotated[Path, tyro.conf.Positional]
    """A run folder, or a folder of ordinary images (.png, .jpg, .webp, .bmp, .tif)."""
    metrics: tuple[str, ...] = ()
    """Names of metrics or families ('pixeval list metrics'); default: all that can run with what is given."""
    prompts: Path | None = None
    """For a folder: .csv or .jsonl with file_name and prompt of each image."""
    suite: str | None = None
    """A bundled prompt suite or a prompt file; its questions and objects go with images of the same prompt text.
    Runs of 'pixeval generate' keep those of their own prompts."""
    reference: Path | None = None
    """A run or folder to compare with: image by image (reference family) and as a set (distribution family)."""
    out: Path | None = None
    """For a folder: where the scores go; default NAME-scores in the current folder."""
    clip: str = "bundled"
    """CLIP for the alignment and distribution families: 'bundled', a local open_clip folder, 'hf-hub:owner/model',
    or an ARCHITECTURE/PRETRAINED pair of open_clip."""
    weights: tuple[str, ...] = ()
    """NAME=PATH for each metric whose weights are not bundled, as in 'laion_aesthetic=head.safetensors'."""
    batch_size: int | None = None
    """Images in one chunk; none for what suits the device's memory, which is halved where it runs out all the same.
    Other sizes may change the last digits."""
    device: str = "cpu"
    """Where metrics and encoder run: 'cpu', 'cuda' (under 'accelerate launch' each process takes its own), 'mps'."""
    precision: Precision = "float32"
    """Arithmetic of the CLIP's image encoder; 'bfloat16' is faster on GPUs and moves scores in their third digit. All
    other metrics keep float32: their numbers do not survive less."""
    heatmaps: bool = False
    """Also write the heat map of every flaw metric laid over every image, as heatmaps/METRIC/SAMPLE.png in the run."""
    engine: Engine = "local"
    """'ray' shares the images out over a Ray cluster (optional extra 'ray')."""
    cache: str = "default"
    """Folder of the score cache, or 'none'; default $PIXEVAL_CACHE, else ~/.cache/pixeval ('pixeval cache')."""


def score(config: ScoreConfig) -> dict[str, Any] | None:
    """Carry out ``pixeval score``; returns the summary (see :func:`pixeval.scoring.summary.summarise`).

    Under ``accelerate launch`` or ``torchrun`` the images are shared out; all processes but the first return None.

    Raises:
        InputError: bad target, metric, prompt file, reference, CLIP or device, or a full disk.
    """
    shard = current_shard()
    device = shard.device(config.device)
    check_device(device)
    if config.engine == "ray" and shard.count > 1:
        raise InputError("--engine ray shares the images out itself; start it without accelerate launch or torchrun")
    batch_size = chunk_images(device) if config.batch_size is None else config.batch_size
    if batch_size < 1:
        raise InputError(f"batch size {batch_size} is not positive; give 1 or more")
    is_run = (config.target / "run.json").exists()
    if not is_run and not config.target.is_dir():
        raise InputError(f"{config.target} does not exist or is not a folder; give a run or a folder of images")
    specs, encoder, left_out = choose(config, device)
    if is_run:
        for name, value in (("--prompts", config.prompts), ("--out", config.out)):
            if value is not None:
                raise InputError(f"{name} is for folders of images; {config.target} is a run and keeps its own")
        run = Run.open(config.target)
    else:
        out = config.out or Path(f"{config.target.resolve().name}-scores")
        with shard.first_goes_ahead():
            run = folder_run(config.target, out, config.prompts)
    names = [spec.name for spec in specs]
    in_parts = score_run(
        run,
        names,
        encoder=encoder,
        reference=config.reference,
        suite=load_prompts(config.suite) if config.suite is not None else (),
        weights=parse_weights(config.weights, CATALOG),
        batch_size=batch_size,
        device=device,
        progress=True,
        cache=open_cache(config.cache),
        shard=shard,
        engine=config.engine,
    )
    if not shard.is_first:
        return None
    summary = {**summarise(run, names, left_out), "in_parts": in_parts}
    if config.heatmaps:
        weights = parse_weights(config.weights, CATALOG)
        flaws, _ = _load([spec for spec in specs if spec.family == "flaws"], None, (), {}, weights, device)
        summary["heatmaps"] = write_heatmaps(run, flaws, batch_size, device, progress=True)
    return summary


def failed(summary: dict[str, Any] | None) -> int:
    """The exit code of ``pixeval score``: 1 when an image could not be read or a metric failed on one, else 0.

    What was not given (a prompt, a reference) is no failure.
    """
    if summary is None:
        return 0
    reasons = [row["reason"] for row in summary["unscored"]]
    return int(bool(summary["unreadable"]) or any(word in r for r in reasons for word in (FAILED, NOT_FINITE)))


def score_run(
    run: Run,
    metrics: Sequence[str],
    *,
    encoder: ClipEncoder | None = None,
    reference: Run | Path | None = None,
    suite: Sequence[Prompt] = (),
    weights: Mapping[str, str] | None = None,
    batch_size: int = 16,
    device: str = "cpu",
    save_every: int = SAVE_EVERY,
    progress: bool = False,
    cache: Cache | None = None,
    shard: Shard = ALONE,
    engine: Engine = "local",
) -> list[dict[str, Any]]:
    """Score the samples of ``run`` and write ``scores.parquet`` and ``set_scores.parquet``.

    Args:
        metrics: names of metrics or families of the catalogue.
        encoder: for metrics that need CLIP; the bundled one by default.
        reference: for the reference and distribution families.
        suite: prompts whose questions and objects go with images of the same text, before those that the run keeps.
        weights: paths by metric, for metrics whose weights are not bundled. One that has none is left out where its
            family was asked for, and an error where it was asked for by name. See also :func:`lacking`.
        batch_size: images in one chunk; values agree between sizes up to float32 rounding.
        save_every: images between two saves.
        cache: what was computed before, in any run; none by default.
        shard: this process's part of the images; the first writes the tables when all are done.
        engine: ``local``, or ``ray`` (see :mod:`pixeval.scoring.ray_pass`).

    Returns:
        Rows of ``metric``, ``n`` and ``prompts``: how many of the run's prompts a published metric read in parts.

    Raises:
        InputError: an unknown metric, no samples, no reference or weights where they are needed, or a full disk.
    """
    weights = weights or {}
    without = lacking(metrics, weights, encoder is not None and not encoder.bundled)
    specs = tuple(spec for spec in select(metrics) if spec.name not in without)
    images = ImageSet.open(run)
    against = ImageSet.open(reference) if reference is not None else None
    need_reference = [spec.name for spec in specs if {"reference_image", "reference_set"} & set(spec.needs)]
    if need_reference and against is None:
        raise InputError(f"{need_reference[0]} compares with a reference; give one with --reference RUN_OR_FOLDER")
    features = None
    if any("clip" in spec.needs for spec in specs):
        encoder = (encoder or ClipEncoder.load()).to(device)
        features = FeatureStore(encoder, cache)
    captions = sorted({s.prompt for s in images.samples if s.prompt and s.prompt.strip()})
    texts = set(captions)
    records = {prompt.text: prompt for prompt in (*run.prompts(), *suite) if prompt.text in texts}
    loaded, hindered = _load(specs, encoder, captions, records, weights, device)
    table = ScoreTable(run, images.samples, shard.index)
    table.put(Score(s.id, spec.name, None, reason, spec.name) for spec, reason in hindered for s in images.samples)
    per_image = [metric for metric in loaded if metric.spec.family != "distribution"]
    per_set = [metric for metric in loaded if metric.spec.family == "distribution"]
    references = References.match(images, against) if against is not None else None
    keep_features = any("clip" in metric.spec.needs for metric in per_set)
    images_pass = ImagePass(images, per_image, table, features, references, device, cache, keep_features)
    if engine == "ray":
        from pixeval.scoring.ray_pass import run_on_ray

        run_on_ray(images_pass, batch_size, save_every, progress)
    else:
        images_pass.run(batch_size, save_every, progress, shard)
    shard.wait()
    if not shard.is_first:
        return []
    table = ScoreTable(run, images.samples) if shard.count > 1 else table
    table.finish()
    stores = {"clip": features, "spectrum": FeatureStore(SpectrumEncoder(device), cache)}
    for need, store in stores.items():
        metrics_of_store = [metric for metric in per_set if need in metric.spec.needs]
        if metrics_of_store and store is not None:
            known = run.set_scores()
            found = score_sets(images, against, metrics_of_store, store, known, batch_size, device)
            save_set_scores(run, found)
    return _in_parts(loaded, captions)


def _in_parts(metrics: Sequence[LoadedMetric], prompts: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for metric in metrics:
        if isinstance(metric.scorer, PartingScorer):
            n = sum(metric.scorer.parts(prompt) > 1 for prompt in prompts)
            rows += [{"metric": metric.spec.name, "n": n, "prompts": len(prompts)}] if n else []
    return rows


def score_folder(
    folder: Path, out: Path, metrics: Sequence[str], *, prompts: Path | None = None, **options: Any
) -> Run:
    """Score a folder of images into a run at ``out``; ``options`` are those of :func:`score_run`.

    ``folder`` itself is left as it is.

    Raises:
        InputError: as :func:`score_run`, and for a bad folder or prompt file.
    """
    select(metrics)
    run = folder_run(folder, out, prompts)
    score_run(run, metrics, **options)
    return run


def choose(config: ScoreConfig, device: str) -> tuple[tuple[MetricSpec, ...], ClipEncoder | None, dict[str, str]]:
    """The metrics to run, the encoder they need on ``device``, and why others are left out of the default choice.

    Raises:
        InputError: a metric was asked for by name and cannot run here.
    """
    specs = select(config.metrics or FAMILIES)
    weights = parse_weights(config.weights, CATALOG)
    left_out = lacking(config.metrics or FAMILIES, weights, config.clip != "bundled")
    specs = tuple(spec for spec in specs if spec.name not in left_out)
    encoder = None
    if any("clip" in spec.needs for spec in specs):
        try:
            encoder = ClipEncoder.load(config.clip, device, config.precision)
        except InputError as error:
            if config.metrics or config.clip != "bundled":
                raise
            left_out |= {spec.name: str(error) for spec in specs if "clip" in spec.needs}
    if not config.metrics and config.reference is None:
        needing = [spec for spec in specs if {"reference_image", "reference_set"} & set(spec.needs)]
        left_out |= {spec.name: "no reference given (--reference)" for spec in needing}
    return tuple(spec for spec in specs if spec.name not in left_out), encoder, left_out


def check_device(device: str) -> None:
    """Raise an InputError where ``device`` cannot be used here."""
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {device!r} cannot be used here ({reason}); try --device cpu") from error


def lacking(names: Sequence[str], weights: Mapping[str, str], general_clip: bool) -> dict[str, str]:
    """The metrics of a family that are left out, with the reason: no weights, or only the bundled CLIP.

    Args:
        names: metrics and families that were asked for. A metric by its own name is never left out.
        weights: paths by metric.
        general_clip: whether the CLIP is another one than the bundled.

    Raises:
        InputError: a metric that was asked for by its own name has no weights.
    """
    without = {}
    for spec in select(names):
        if "weights" in spec.needs and spec.name not in weights:
            if spec.name in names:
                raise InputError(missing_weights(spec))
            without[spec.name] = missing_weights(spec)
        elif "general_clip" in spec.needs and not general_clip and spec.name not in names:
            without[spec.name] = "the bundled CLIP knows only icons; give another with --clip"
    return without


def _load(
    specs: Sequence[MetricSpec],
    encoder: ClipEncoder | None,
    captions: Sequence[str],
    records: Mapping[str, Prompt],
    weights: Mapping[str, str],
    device: str,
) -> tuple[list[LoadedMetric], list[tuple[MetricSpec, str]]]:
    """The metrics, and those that cannot run on any image of this run with the reason."""
    loaded, hindered = [], []
    for spec in specs:
        if "captions" in spec.needs and len(captions) < 2:
            held = "no prompt" if not captions else "only one distinct prompt"
            hindered.append((spec, f"{held}: {spec.name} tells the prompts of a run apart and needs at least two"))
        elif lacking := [need for need in ("questions", "objects") if need in spec.needs and not _has(records, need)]:
            hindered.append((spec, f"no prompt of these images has {lacking[0]}; give a suite that has them (--suite)"))
        else:
            path = weights.get(spec.name)
            scorer = load(spec, encoder=encoder, captions=captions, records=records, weights=path)
            loaded.append(LoadedMetric(spec, scorer.to(device) if "weights" in spec.needs else scorer))
    return loaded, hindered


def _has(records: Mapping[str, Prompt], need: str) -> bool:
    return any(getattr(prompt, need) for prompt in records.values())
