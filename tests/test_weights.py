"""Weights that are not bundled: how they are named, and what is said without them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pixeval.catalog import load
from pixeval.errors import InputError
from pixeval.metric_spec import MetricSpec
from pixeval.weight_files import digest, read_weights
from pixeval.weights import parse_weights

HEAD = MetricSpec(
    "head",
    "quality",
    "a head",
    True,
    0.0,
    1.0,
    "pixeval.metrics.quality:Sharpness",
    "nowhere",
    needs=("weights",),
    weights_format="a safetensors file",
)


def test_words_become_paths_by_metric() -> None:
    assert parse_weights(["head=/a/b=c.safetensors"], [HEAD]) == {"head": "/a/b=c.safetensors"}
    assert parse_weights([], [HEAD]) == {}
    for word in ("head", "head=", "=x"):
        with pytest.raises(InputError, match=r"NAME=PATH|unknown"):
            parse_weights([word], [HEAD])
    with pytest.raises(InputError, match="Did you mean 'head'"):
        parse_weights(["haed=x"], [HEAD])
    with pytest.raises(InputError, match="twice"):
        parse_weights(["head=x", "head=y"], [HEAD])


def test_a_metric_without_its_weights_says_what_to_give() -> None:
    with pytest.raises(InputError, match=r"give --weights head=PATH \(a safetensors file\)"):
        load(HEAD)


def test_files_are_checked_and_named_by_their_contents(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(2), "b": torch.zeros(1)}, file)
    found = read_weights(file, "head")
    assert set(found) == {"a", "b"}
    assert digest(found) == digest(dict(reversed(found.items())))
    assert digest(found) != digest({**found, "b": torch.ones(1)})
    with pytest.raises(InputError, match="cannot read the weights of head"):
        read_weights(tmp_path / "none.safetensors", "head")
    with pytest.raises(InputError, match="cannot read the weights of head"):
        read_weights(tmp_path, "head")
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(InputError, match="pickled weights"):
        read_weights(file, "head")
