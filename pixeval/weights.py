"""Weights that are not bundled: which file belongs to which metric. Importing this module imports no torch."""

from collections.abc import Iterable, Sequence

from pixeval.errors import InputError, unknown_name
from pixeval.metric_spec import MetricSpec


def parse_weights(words: Sequence[str], catalogue: Iterable[MetricSpec]) -> dict[str, str]:
    """``NAME=PATH`` words, as of ``--weights``, to paths by metric name; ``~`` is not expanded here.

    Raises:
        InputError: a word is of another form, names no metric, or one that takes no weights; or a name comes twice.
    """
    taking = {spec.name for spec in catalogue if "weights" in spec.needs}
    found: dict[str, str] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not (equals and path):
            raise InputError(
                f"--weights {word!r} is not of the form NAME=PATH, as in 'laion_aesthetic=head.safetensors'"
            )
        if name not in taking:
            raise unknown_name("metric that takes weights:", name, taking)
        if name in found:
            raise InputError(f"--weights names {name} twice; give one path")
        found[name] = path
    return found


def missing_weights(spec: MetricSpec) -> str:
    """One line for people: what to give so that ``spec`` can run."""
    return f"{spec.name} needs weights that are not bundled; give --weights {spec.name}=PATH ({spec.weights_format})"
