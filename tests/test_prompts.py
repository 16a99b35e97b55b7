"""Prompt suites, bundled and from files."""

import json
from pathlib import Path

import pytest

from pixeval.errors import InputError
from pixeval.records import ObjectSpec, Prompt, RelationSpec
from pixeval.suites import load_prompts, suite_names
from pixeval.tables import read_records, write_records
from pixeval.zoo.icons import load_icons


def test_the_bundled_suites_hold_captions_of_the_bundled_icons() -> None:
    train, heldout = set(load_icons("train").captions), set(load_icons("heldout").captions)
    seen: set[str] = set()
    for name in ("icons-eval", "icons-tune"):
        for prompt in load_prompts(name):
            assert prompt.text in (heldout if "heldout" in prompt.tags else train)
            assert prompt.text not in seen, "no prompt is both tuned and evaluated on"
            seen.add(prompt.text)
    assert {"icons-eval", "icons-tune"} <= set(suite_names())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "a cat\n\n  a dog \n"),
        ("p.csv", 'prompt,tags\na cat,"x, y"\na dog,\n'),
        ("p.jsonl", '{"text": "a cat", "tags": ["x", "y"]}\n{"caption": "a dog"}\n'),
        ("p.toml", '[[prompt]]\ntext = "a cat"\ntags = ["x", "y"]\n[[prompt]]\ntext = "a dog"\n'),
    ],
)
def test_files_of_every_kind(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    prompts = load_prompts(str(tmp_path / name))
    assert [p.text for p in prompts] == ["a cat", "a dog"]
    assert [p.id for p in prompts] == ["p0000", "p0001"]
    assert prompts[0].tags == (() if name == "p.txt" else ("x", "y"))


def test_questions_and_ids_are_kept(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text('[[prompt]]\nid = "c"\ntext = "a cat"\nquestions = ["is it a cat?"]\n')
    assert load_prompts(str(tmp_path / "p.toml")) == [Prompt("c", "a cat", (), ("is it a cat?",))]


STRUCTURED = """
[[prompt]]
id = "apples"
text = "three red apples to the left of a bowl, and no spoon"
objects = [
  { name = "apple", colour = "red", count = 3 },
  { name = "bowl" },
  { name = "spoon", count = 0 },
  { name = "crumb", at_least = 2, at_most = 9 },
]
relations = [{ subject = 0, relation = "left of", object = 1 }]
"""


def test_objects_and_relations_come_from_toml_and_survive_parquet(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(STRUCTURED)
    prompts = load_prompts(str(tmp_path / "p.toml"))
    assert prompts[0].objects == (
        ObjectSpec("apple", "red", 3, 3),
        ObjectSpec("bowl"),
        ObjectSpec("spoon", at_least=0, at_most=0),
        ObjectSpec("crumb", None, 2, 9),
    )
    assert prompts[0].relations == (RelationSpec(0, "left of", 1),)
    prompts.append(Prompt("plain", "a cat", ("x",), ("is it a cat?",)))
    write_records(tmp_path / "p.parquet", prompts, Prompt)
    assert read_records(tmp_path / "p.parquet", Prompt) == prompts


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("count = 3", "count = -1", "object 'apple' needs whole numbers"),
        ("count = 3", "count = true", "object 'apple' needs whole numbers"),
        ("at_least = 2", "at_least = 10", "object 'crumb' needs whole numbers"),
        ('name = "bowl"', 'nome = "bowl"', "an object needs 'name'"),
        ("object = 1", "object = 4", "a relation needs"),
        ("object = 1", "object = 0", "a relation needs"),
        ("left of", "inside", "one of left of, right of, above, below"),
    ],
)
def test_bad_objects_and_relations_are_refused(old: str, new: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(STRUCTURED.replace(f"{old}", new))
    with pytest.raises(InputError, match=says) as error:
        load_prompts(str(tmp_path / "p.toml"))
    assert "p.toml, entry 1" in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("p.txt", "\n \n", "holds no prompts"),
        ("p.csv", "name\nx\n", "entry 1: no 'prompt'"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": "b"', "cannot be read as JSONL"),
        ("p.jsonl", '{"prompt": "a", "id": "x"}\n{"prompt": "b", "id": "x"}', "id 'x' twice"),
        ("p.toml", "[[prompt]\n", "cannot be read as TOML"),
        ("p.jsonl", '{"prompt": "a"}\n\n{"prompt": "b"', "line 3, cannot be read as JSONL"),
        ("p.jsonl", "[" * 100_000, "line 1, cannot be read as JSONL: it is nested too deeply"),
        ("p.jsonl", '{"prompt": "a \\ud800 cat"}', r"line 1, holds \\ud800, half of a character"),
        ("p.jsonl", '{"prompt": "a", "tags": 7}', "entry 1: 'tags' must be a list, got 7"),
        ("p.jsonl", '{"prompt": "a", "questions": 7}', "entry 1: 'questions' must be a list"),
        ("p.jsonl", '{"prompt": "a", "objects": {"name": "cat"}}', "entry 1: 'objects' must be a list"),
        ("p.jsonl", '{"prompt": "a", "relations": "on"}', "entry 1: 'relations' must be a list"),
        ("p.toml", "prompt = 5\n", "must be .*prompt.* tables, got 5"),
        ("p.txt", b"caf\xe9\n", "not UTF-8"),
    ],
)
def test_bad_files_are_named(name: str, text: str | bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=says) as error:
        load_prompts(str(tmp_path / name))
    assert name in str(error.value)


def test_odd_characters_are_kept_and_a_folder_is_named(tmp_path: Path) -> None:
    odd = ["a\u2028cat", "nul \0 cat", "קטה \u202eevil\u202c", "cat " * 25_000]
    file = tmp_path / "p.jsonl"
    file.write_text("".join(json.dumps({"prompt": text}, ensure_ascii=False) + "\n" for text in odd))
    assert [prompt.text for prompt in load_prompts(str(file))] == [text.strip() for text in odd]
    with pytest.raises(InputError, match="is a folder"):
        load_prompts(str(tmp_path))


def test_a_misspelt_suite_is_told_apart_from_a_missing_file() -> None:
    with pytest.raises(InputError, match="Did you mean 'icons-eval'"):
        load_prompts("icon-eval")
    with pytest.raises(InputError, match=r"gone\.txt does not exist"):
        load_prompts("gone.txt")
