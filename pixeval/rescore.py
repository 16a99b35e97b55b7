"""Close the loop for one checkpoint: generate on fixed prompts and seeds, score, append to the run."""

from dataclasses import dataclass, field
from pathlib import Path

from pixeval.catalog import CATALOG, select
from pixeval.encoders import ClipEncoder
from pixeval.generate import generate_into
from pixeval.metric_spec import FAMILIES
from pixeval.pipelines import Sampler, load_generator
from pixeval.runs import Run
from pixeval.scoring.evaluate import lacking, score_run
from pixeval.suites import load_prompts
from pixeval.weights import parse_weights


@dataclass(frozen=True)
class Evaluation:
    """How checkpoints are generated from and scored; the same for all of them, so that they can be compared."""

    seeds: tuple[int, ...] = (0,)
    """One image per prompt and seed."""
    sampler: Sampler = field(default_factory=Sampler)
    batch_size: int = 8
    metrics: tuple[str, ...] = ()
    """Metrics or families; default: all that can run, those against a reference only when there is one."""
    reference: Path | None = None
    """Folder or run of real images, for the distribution family."""
    clip: str = "bundled"
    """CLIP to score with, as for ``pixeval score``; the bundled one knows nothing but the bundled icons."""
    weights: tuple[str, ...] = ()
    """NAME=PATH for metrics whose weights are not bundled; 'reward_held_out=FOLDER' watches a reward model that nothing
    is trained against, and warns when it falls."""


def rescore(run: Run, model: str, label: str, suite: str, evaluation: Evaluation, device: str = "cpu") -> None:
    """Generate from ``model`` under ``label`` and score what is new in ``run``; does nothing twice.

    Raises:
        InputError: an unusable model, suite, metric or reference.
    """
    prompts = load_prompts(suite)
    generator = load_generator(model, evaluation.sampler, device)
    generate_into(run, generator, prompts, evaluation.seeds, label, evaluation.batch_size)
    metrics = evaluation_metrics(evaluation)
    clip = any("clip" in spec.needs for spec in select(metrics))
    encoder = ClipEncoder.load(evaluation.clip, device) if clip else None
    weights = parse_weights(evaluation.weights, CATALOG)
    score_run(run, metrics, encoder=encoder, reference=evaluation.reference, weights=weights, device=device)


def evaluation_metrics(evaluation: Evaluation) -> list[str]:
    """The names of the metrics that checkpoints are scored with."""
    if evaluation.metrics:
        return list(evaluation.metrics)
    left_out = {"reference_image"} if evaluation.reference is not None else {"reference_image", "reference_set"}
    unable = lacking(FAMILIES, parse_weights(evaluation.weights, CATALOG), evaluation.clip != "bundled")
    return [s.name for s in select(FAMILIES) if not left_out & set(s.needs) and s.name not in unable]
