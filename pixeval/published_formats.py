"""The file formats of published prompt suites: one function each, from a path to prompts.

Ids are those of the files where there are any, else running numbers. A malformed file raises whatever its reader
raises; :func:`pixeval.published_suites.load_published` turns that into one clear line.
"""

import csv
import io
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pixeval.records import RELATIONS, ObjectSpec, Prompt, RelationSpec


def parti_prompts(path: Path) -> list[Prompt]:
    """PartiPrompts (P2): tab-separated ``Prompt, Category, Challenge, Note``, without quoting.

    Format: github.com/google-research/parti, PartiPrompts.tsv; the hub's nateraw/parti-prompts holds the same file.
    Tags are the category and the challenge.
    """
    rows = csv.DictReader(io.StringIO(_text(path), newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    return [
        Prompt(f"p2-{i:04d}", row["Prompt"].strip(), _slugs((row["Category"], row["Challenge"])))
        for i, row in enumerate(rows)
    ]


def drawbench(path: Path) -> list[Prompt]:
    """DrawBench: columns ``Prompts`` and ``Category`` in CSV, or in Parquet as ``prompts`` and ``category``.

    Format: the table linked from imagen.research.google; on the hub as Parquet, Jialuo21/DrawBench.
    """
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        rows = pq.read_table(path).to_pylist()
    else:
        rows = list(csv.DictReader(io.StringIO(_text(path), newline="")))
    lower = [{str(key).lower(): value for key, value in row.items()} for row in rows]
    return [
        Prompt(f"drawbench-{i:03d}", row["prompts"].strip(), _slugs((str(row["category"]),)))
        for i, row in enumerate(lower)
    ]


def hpsv2(path: Path) -> list[Prompt]:
    """HPSv2 benchmark: one JSON list of texts per style, 800 each; the style is the file's name and the tag.

    Format: hpsv2.benchmark_prompts in github.com/tgxs002/HPSv2; files in ymhao/HPDv2, folder benchmark. That folder
    also has drawbench.json, which is no style and is left out.
    """
    styles = ("anime", "concept-art", "paintings", "photo")
    files = [path] if path.is_file() else [path / f"{style}.json" for style in styles]
    files = [file for file in files if file.is_file()]
    if not files:
        raise ValueError("no style's .json in the folder")
    prompts = []
    for file in files:
        texts = json.loads(_text(file))
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError("expected a list of texts")
        style = _slug(file.stem)
        prompts += [Prompt(f"{style}-{i:04d}", text.strip(), (style,)) for i, text in enumerate(texts)]
    return prompts


def geneval(path: Path) -> list[Prompt]:
    """GenEval: JSON lines with ``tag``, ``prompt``, ``include`` and perhaps ``exclude``.

    Format: prompts/create_prompts.py and evaluation/evaluate_images.py of github.com/djghosh13/geneval. An ``include``
    clause asks for at least ``count`` of ``class``, perhaps of a ``color``, perhaps at a ``position`` (relation, number
    of the clause it relates to); an ``exclude`` clause asks for fewer than its ``count``.
    """
    file = path if path.is_file() else _first(path, ("evaluation_metadata.jsonl", "prompts/evaluation_metadata.jsonl"))
    prompts = []
    for i, line in enumerate(line for line in _text(file).splitlines() if line.strip()):
        row = json.loads(line)
        objects, relations = _geneval_clauses(row["include"], row.get("exclude", []))
        tag = _slug(row["tag"])
        prompts.append(
            Prompt(f"{tag}-{i:04d}", row["prompt"].strip(), (tag,), objects=objects, relations=relations),
        )
    return prompts


def _geneval_clauses(
    include: list[dict[str, Any]], exclude: list[dict[str, Any]]
) -> tuple[tuple[ObjectSpec, ...], tuple[RelationSpec, ...]]:
    objects = [ObjectSpec(clause["class"], clause.get("color"), int(clause["count"])) for clause in include]
    relations = []
    for i, clause in enumerate(include):
        if "position" in clause:
            relation, other = clause["position"]
            if relation not in RELATIONS or not 0 <= other < len(include):
                raise ValueError(f"position {clause['position']}")
            relations.append(RelationSpec(i, relation, other))
    for clause in exclude:
        at_most = int(clause["count"]) - 1
        # "Exactly n" is written as an include and an exclude; they are one object unless a colour sets them apart.
        same = [i for i, o in enumerate(objects) if o.name == clause["class"] and o.colour is None]
        if len(same) == 1 and objects[same[0]].at_least <= at_most:
            objects[same[0]] = ObjectSpec(clause["class"], None, objects[same[0]].at_least, at_most)
        else:
            objects.append(ObjectSpec(clause["class"], None, 0, at_most))
    return tuple(objects), tuple(relations)


def dpg_bench(path: Path) -> list[Prompt]:
    """DPG-Bench: dense prompts as ``prompts/ID.txt`` and questions in dpg_bench.csv, keyed by ``item_id``.

    Format: dpg_bench/ of github.com/TencentQQGYLab/ELLA. Columns used: item_id, text, proposition_id, category_broad,
    question_natural_language (each expects yes). The dependencies between questions, by which the published score
    voids a question whose parent failed, are not kept, so a rate of yes answers is not the published score.
    """
    tables = [path] if path.is_file() else [path / "dpg_bench.csv", path.parent / "dpg_bench.csv"]
    rows: dict[str, list[dict[str, str]]] = {}
    for table in [table for table in tables if table.is_file()][:1]:
        for row in csv.DictReader(io.StringIO(_text(table), newline="")):
            rows.setdefault(row["item_id"], []).append(row)
    folder = path / "prompts" if (path / "prompts").is_dir() else path
    texts = {file.stem: _text(file).strip() for file in sorted(folder.glob("*.txt"))} if path.is_dir() else {}
    texts = texts or {item: own[0]["text"].strip() for item, own in rows.items()}
    if not texts:
        raise ValueError("neither .txt files nor dpg_bench.csv in the folder")
    prompts = []
    for item, text in texts.items():
        own = sorted(rows.get(item, []), key=lambda row: int(row["proposition_id"]))
        questions = tuple(row["question_natural_language"].strip() for row in own)
        prompts.append(Prompt(_slug(item), text, _slugs(row["category_broad"] for row in own), questions))
    return prompts


def t2i_compbench(path: Path) -> list[Prompt]:
    """T2I-CompBench: one text a line, a file per category; of a folder, the validation files ``CATEGORY_val.txt``.

    Format: examples/dataset of github.com/Karine-Huang/T2I-CompBench. The tag is the category.
    """
    files = [path] if path.is_file() else sorted(path.glob("*_val.txt"))
    if not files:
        raise ValueError("no *_val.txt in the folder")
    prompts = []
    for file in files:
        lines = [line.strip() for line in _text(file).splitlines() if line.strip()]
        tag = _slug(re.sub(r"_(val|train)$", "", file.stem))
        prompts += [Prompt(f"{_slug(file.stem)}-{i:04d}", line, (tag,)) for i, line in enumerate(lines)]
    return prompts


def genai_bench(path: Path) -> list[Prompt]:
    """GenAI-Bench: genai_image.json maps ids to objects with ``prompt``; genai_skills.json maps skills to ids.

    Format: genai_image.json of github.com/linzhiqiu/t2v_metrics and BaiqiL/GenAI-Bench-1600 on the hub. Skills, the
    tags, are read where their file lies beside; the ratings of published models in the file are not.
    """
    file = path if path.is_file() else _first(path, ("genai_image.json",))
    skills_file = file.parent / "genai_skills.json"
    skills = json.loads(_text(skills_file)) if skills_file.is_file() else {}
    tags: dict[int, list[str]] = {}
    for skill, ids in skills.items():
        for i in ids:
            tags.setdefault(int(i), []).append(skill)
    return [
        Prompt(f"genai-{key}", row["prompt"].strip(), _slugs(tags.get(int(key), ())))
        for key, row in json.loads(_text(file)).items()
    ]


def tifa(path: Path) -> list[Prompt]:
    """TIFA v1.0: a JSON list with ``id``, ``caption`` and, in the question file, ``question, choices, answer``.

    Format: tifa_v1.0/README.md of github.com/Yushi-Hu/tifa. Of the questions those between yes and no whose answer is
    yes are kept; multiple choice is not. The tag is the source of the caption (coco, drawbench, ...).
    """
    names = ("tifa_v1.0_question_answers.json", "tifa_v1.0_text_inputs.json")
    file = path if path.is_file() else _first(path, names)
    captions: dict[str, str] = {}
    questions: dict[str, list[str]] = {}
    for row in json.loads(_text(file)):
        captions.setdefault(row["id"], row["caption"].strip())
        kept = questions.setdefault(row["id"], [])
        if set(row.get("choices", ())) == {"yes", "no"} and row["answer"] == "yes":
            kept.append(row["question"].strip())
    return [
        Prompt(_slug(i), caption, _slugs((i.rpartition("_")[0],)), tuple(dict.fromkeys(questions[i])))
        for i, caption in captions.items()
    ]


def _text(path: Path) -> str:
    if path.is_dir():
        raise ValueError("a folder where a file is expected")
    return path.read_bytes().decode("utf-8-sig")


def _first(folder: Path, names: tuple[str, ...]) -> Path:
    """The first of these files that exists in ``folder``."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f"the folder has none of {', '.join(names)}")


def _slug(name: str) -> str:
    """Lower-case words joined by hyphens, as ids and tags are written."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")


def _slugs(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(slug for slug in map(_slug, names) if slug))
