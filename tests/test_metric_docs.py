"""The documentation of the metrics follows the catalogue, and the catalogue is light and complete."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from pixeval.catalog import CATALOG, find, load, select
from pixeval.errors import InputError
from pixeval.metric_docs import with_catalogue
from pixeval.metric_spec import FAMILIES

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"


def test_the_page_is_up_to_date() -> None:
    text = PAGE.read_text()
    assert text == with_catalogue(text), "run python -m pixeval.metric_docs docs/metrics.md"


def test_every_entry_is_complete_and_loads() -> None:
    assert len({spec.name for spec in CATALOG}) == len(CATALOG)
    for family in FAMILIES:
        assert sum(spec.family == family for spec in CATALOG) >= 2
    for spec in CATALOG:
        assert spec.summary
        assert spec.citation
        assert spec.caution
        assert spec.low < spec.high
        module, _, attribute = spec.factory.partition(":")
        assert hasattr(importlib.import_module(module), attribute)
        assert bool(spec.weights_format) == ("weights" in spec.needs)
        if spec.family == "distribution" or not {"clip", "weights"} & set(spec.needs):
            assert load(spec).fingerprint


def test_names_and_families_select_in_catalogue_order() -> None:
    assert [spec.name for spec in select(["contrast", "flaws", "sharpness"])][:3] == [
        "sharpness",
        "contrast",
        "blur_flaw",
    ]
    with pytest.raises(InputError, match="Did you mean 'clip_score'"):
        find("clipscore")
    with pytest.raises(InputError, match="Did you mean 'quality'"):
        select(["qualty"])
    with pytest.raises(InputError, match="needs a CLIP encoder"):
        load(find("clip_score"))


def test_the_catalogue_imports_no_torch() -> None:
    code = "import sys, pixeval.catalog; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PAGE.parents[1], check=False).returncode == 0
