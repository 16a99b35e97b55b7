"""Published prompt suites, read from the files their authors publish. None of their prompts is bundled.

``NAME=PATH`` reads a local file or folder and never touches the network; ``NAME=hub`` fetches the suite's files from
the Hugging Face hub (``NAME=hub:OWNER/DATASET`` from a mirror with the same files).
"""

import csv
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pixeval import published_formats as formats
from pixeval.errors import InputError, unknown_name
from pixeval.records import Prompt


@dataclass(frozen=True)
class HubFiles:
    """Where a suite's files are on the Hugging Face hub."""

    dataset: str
    """``OWNER/NAME`` of the data set."""
    files: tuple[str, ...]
    """Paths in it; the folder of the first is what is parsed when there are several."""


@dataclass(frozen=True)
class PublishedSuite:
    """A suite that others published, and how to read it."""

    name: str
    prompts: int
    """As its authors count them."""
    carries: str
    """What comes with the texts: ``tags``, ``questions``, ``objects``."""
    expects: str
    """The file or folder to give, for people."""
    source: str
    """Where it is published."""
    citation: str
    parse: Callable[[Path], list[Prompt]]
    hub: HubFiles | None = None
    """None where it is to be had elsewhere only."""


_HPS_STYLES = ("anime", "concept-art", "paintings", "photo")

PUBLISHED: tuple[PublishedSuite, ...] = (
    PublishedSuite(
        "parti-prompts",
        1632,
        "tags",
        "PartiPrompts.tsv",
        "github.com/google-research/parti",
        "Yu et al. 2022, arXiv 2206.10789",
        formats.parti_prompts,
        HubFiles("nateraw/parti-prompts", ("PartiPrompts.tsv",)),
    ),
    PublishedSuite(
        "drawbench",
        200,
        "tags",
        "a .csv or .parquet file with the columns Prompts and Category",
        "imagen.research.google",
        "Saharia et al. 2022, arXiv 2205.11487",
        formats.drawbench,
        HubFiles("Jialuo21/DrawBench", ("data/test-00000-of-00001.parquet",)),
    ),
    PublishedSuite(
        "hpsv2",
        3200,
        "tags",
        "one of anime.json, concept-art.json, paintings.json, photo.json, or the folder with them",
        "github.com/tgxs002/HPSv2",
        "Wu et al. 2023, arXiv 2306.09341",
        formats.hpsv2,
        HubFiles("ymhao/HPDv2", tuple(f"benchmark/{style}.json" for style in _HPS_STYLES)),
    ),
    PublishedSuite(
        "geneval",
        553,
        "tags, objects",
        "evaluation_metadata.jsonl",
        "github.com/djghosh13/geneval",
        "Ghosh et al. 2023, arXiv 2310.11513",
        formats.geneval,
    ),
    PublishedSuite(
        "dpg-bench",
        1065,
        "tags, questions",
        "dpg_bench.csv, the folder prompts/ of .txt files, or the folder with both",
        "github.com/TencentQQGYLab/ELLA",
        "Hu et al. 2024, arXiv 2403.05135",
        formats.dpg_bench,
    ),
    PublishedSuite(
        "t2i-compbench",
        2400,
        "tags",
        "one of the .txt files such as color_val.txt, or the folder examples/dataset (its *_val.txt are read)",
        "github.com/Karine-Huang/T2I-CompBench",
        "Huang et al. 2023, arXiv 2307.06350",
        formats.t2i_compbench,
    ),
    PublishedSuite(
        "genai-bench",
        1600,
        "tags",
        "genai_image.json, with genai_skills.json beside it for the tags",
        "github.com/linzhiqiu/t2v_metrics",
        "Li et al. 2024, arXiv 2406.13743",
        formats.genai_bench,
        HubFiles("BaiqiL/GenAI-Bench-1600", ("genai_image.json", "genai_skills.json")),
    ),
    PublishedSuite(
        "tifa",
        4081,
        "tags, questions",
        "tifa_v1.0_question_answers.json or tifa_v1.0_text_inputs.json",
        "github.com/Yushi-Hu/tifa",
        "Hu et al. 2023, arXiv 2303.11897",
        formats.tifa,
    ),
)


def published_suite(name: str) -> PublishedSuite | None:
    """The published suite of that name, or None."""
    return next((suite for suite in PUBLISHED if suite.name == name), None)


def load_published(name: str, place: str) -> list[Prompt]:
    """The prompts of a published suite.

    Args:
        name: one of :data:`PUBLISHED`.
        place: a path, ``hub``, or ``hub:OWNER/DATASET``.

    Raises:
        InputError: no such suite, file or data set, it cannot be fetched, or it has another format.
    """
    suite = published_suite(name)
    if suite is None:
        raise unknown_name("published prompt suite", name, (s.name for s in PUBLISHED))
    path = _fetch(suite, place) if place == "hub" or place.startswith("hub:") else Path(place)
    if not path.exists():
        raise InputError(f"{name}: {place or 'nothing'} does not exist. {_remedy(suite)}")
    try:
        prompts = suite.parse(path)
        if not prompts:
            raise ValueError("no prompts in it")
        return prompts
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, csv.Error) as error:
        what = f"no {error}" if isinstance(error, KeyError) else error
        raise InputError(f"{path} is not {suite.expects} of {name}: {what}. Its format: {suite.source}.") from error


def _fetch(suite: PublishedSuite, place: str) -> Path:
    """The suite's files from the hub (or its cache); the file to parse, or the folder where there are several."""
    if suite.hub is None:
        raise InputError(f"{suite.name} is not fetched from the hub. {_remedy(suite)}")
    dataset = place.partition(":")[2] or suite.hub.dataset
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError

    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.ERROR)  # its retries without a network would be a dozen lines
    try:
        paths = [Path(hf_hub_download(dataset, file, repo_type="dataset")) for file in suite.hub.files]
    except (OSError, HFValidationError) as error:  # the hub's and the connection's errors are OSErrors
        raise InputError(
            f"{suite.name}: {dataset} could not be fetched from the hub ({type(error).__name__}). {_remedy(suite)}"
        ) from error
    finally:
        log.setLevel(level)
    return paths[0] if len(paths) == 1 else paths[0].parent


def _remedy(suite: PublishedSuite) -> str:
    hub = "" if suite.hub is None else f"; or {suite.name}=hub where the hub can be reached"
    return f"Get it from {suite.source} and give {suite.name}=PATH of {suite.expects}{hub}."
