"""Every metric that can be named on the command line. Importing this module imports no torch."""

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pixeval.catalog_alignment import ALIGNMENT
from pixeval.catalog_distribution import DISTRIBUTION
from pixeval.catalog_flaws import FLAWS
from pixeval.catalog_quality import QUALITY
from pixeval.catalog_reference import REFERENCE
from pixeval.errors import InputError, unknown_name
from pixeval.metric_spec import FAMILIES, MetricSpec
from pixeval.weights import missing_weights

if TYPE_CHECKING:
    from pixeval.encoders import ClipEncoder
    from pixeval.records import Prompt

CATALOG: tuple[MetricSpec, ...] = (*QUALITY, *FLAWS, *ALIGNMENT, *DISTRIBUTION, *REFERENCE)


def find(name: str) -> MetricSpec:
    """The metric called ``name``.

    Raises:
        InputError: there is none; names the closest.
    """
    for spec in CATALOG:
        if spec.name == name:
            return spec
    raise unknown_name("metric", name, [spec.name for spec in CATALOG])


def select(names: Sequence[str]) -> tuple[MetricSpec, ...]:
    """Metrics by name or by family, each once, in the order of the catalogue.

    Raises:
        InputError: a name is neither; names the closest.
    """
    known = {spec.name for spec in CATALOG}
    for name in names:
        if name not in known and name not in FAMILIES:
            raise unknown_name("metric or family", name, {*known, *FAMILIES})
    return tuple(spec for spec in CATALOG if spec.name in names or spec.family in names)


def load(
    spec: MetricSpec,
    *,
    encoder: "ClipEncoder | None" = None,
    captions: Sequence[str] = (),
    records: "Mapping[str, Prompt] | None" = None,
    weights: str | None = None,
) -> Any:
    """The metric itself: a Scorer, FlawScorer, ReferenceScorer or SetMetric according to its family.

    Its factory is called with the encoder, the captions, the records and the weights, in this order, each only where
    it is among the needs. Set metrics take features and are made without an encoder.

    Args:
        encoder: for per-image metrics with ``clip`` among their needs.
        captions: for metrics with ``captions`` among their needs.
        records: prompts by their text, for metrics with ``questions`` or ``objects`` among their needs.
        weights: for metrics with ``weights`` among their needs: a local path, or a hub name where the metric says so.

    Raises:
        InputError: what it needs was not given, or the weights are not what the metric expects.
    """
    module, _, attribute = spec.factory.partition(":")
    factory = getattr(importlib.import_module(module), attribute)
    arguments: list[Any] = []
    if "clip" in spec.needs and spec.family != "distribution":
        if encoder is None:
            raise InputError(f"{spec.name} needs a CLIP encoder; load one with ClipEncoder.load()")
        arguments.append(encoder)
    if "captions" in spec.needs:
        arguments.append(captions)
    if {"questions", "objects"} & set(spec.needs):
        arguments.append(records or {})
    if "weights" in spec.needs:
        if weights is None:
            raise InputError(missing_weights(spec))
        arguments.append(weights)
    return factory(*arguments)
