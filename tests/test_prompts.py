"""Prompt suites, bundled and from files."""

from pathlib import Path

import pytest

from pixeval.errors import InputError
from pixeval.records import Prompt
from pixeval.suites import load_prompts, suite_names
from pixeval.zoo.icons import load_icons


def test_the_bundled_suites_hold_captions_of_the_bundled_icons() -> None:
    train, heldout = set(load_icons("train").captions), set(load_icons("heldout").captions)
    seen: set[str] = set()
    for name in suite_names():
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


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("p.txt", "\n \n", "holds no prompts"),
        ("p.csv", "name\nx\n", "entry 1: no 'prompt'"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": "b"', "cannot be read as JSONL"),
        ("p.jsonl", '{"prompt": "a", "id": "x"}\n{"prompt": "b", "id": "x"}', "id 'x' twice"),
        ("p.toml", "[[prompt]\n", "cannot be read as TOML"),
        ("p.txt", b"caf\xe9\n", "not UTF-8"),
    ],
)
def test_bad_files_are_named(name: str, text: str | bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=says) as error:
        load_prompts(str(tmp_path / name))
    assert name in str(error.value)


def test_a_misspelt_suite_is_told_apart_from_a_missing_file() -> None:
    with pytest.raises(InputError, match="Did you mean 'icons-eval'"):
        load_prompts("icon-eval")
    with pytest.raises(InputError, match=r"gone\.txt does not exist"):
        load_prompts("gone.txt")
