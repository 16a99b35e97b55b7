"""Published prompt suites, from small files of our own in the authors' formats."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pixeval import cli
from pixeval.errors import InputError
from pixeval.published_suites import PUBLISHED
from pixeval.records import ObjectSpec, RelationSpec
from pixeval.suites import load_prompts


def save(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_parti_prompts_are_not_quoted(tmp_path: Path) -> None:
    tsv = 'Prompt\tCategory\tChallenge\tNote\n"HI" on a wall\tFood & Beverage\tWriting & Symbols\t\na hut\tA\tB\tx\n'
    first, second = load_prompts(f"parti-prompts={save(tmp_path / 'P2.tsv', tsv)}")
    assert (first.id, first.text, first.tags) == ("p2-0000", '"HI" on a wall', ("food-beverage", "writing-symbols"))
    assert (second.id, second.text) == ("p2-0001", "a hut")


def test_drawbench_as_csv_and_as_parquet(tmp_path: Path) -> None:
    path = save(tmp_path / "d.csv", 'Prompts,Category\n"one tree, two birds",Counting\na b,Gary and others \n')
    pq.write_table(
        pa.table({"prompts": ["one tree, two birds", "a b"], "category": ["Counting", "Gary and others"]}),
        tmp_path / "d.parquet",
    )
    prompts = load_prompts(f"drawbench={path}")
    assert [(p.text, p.tags) for p in prompts] == [
        ("one tree, two birds", ("counting",)),
        ("a b", ("gary-and-others",)),
    ]
    assert load_prompts(f"drawbench={tmp_path / 'd.parquet'}") == prompts


def test_hpsv2_styles_come_from_the_file_names(tmp_path: Path) -> None:
    save(tmp_path / "photo.json", json.dumps(["a hill", "a mill"]))
    save(tmp_path / "concept-art.json", json.dumps(["a keep"]))
    save(tmp_path / "drawbench.json", json.dumps(["not a style"]))
    prompts = load_prompts(f"hpsv2={tmp_path}")
    assert [(p.id, p.text, p.tags) for p in prompts] == [
        ("concept-art-0000", "a keep", ("concept-art",)),
        ("photo-0000", "a hill", ("photo",)),
        ("photo-0001", "a mill", ("photo",)),
    ]
    assert [p.text for p in load_prompts(f"hpsv2={tmp_path / 'photo.json'}")] == ["a hill", "a mill"]


def test_geneval_clauses_become_objects_and_relations(tmp_path: Path) -> None:
    lantern = {"class": "lantern", "count": 1}
    rows = [
        {
            "tag": "counting",
            "include": [{"class": "lantern", "count": 2}],
            "exclude": [{"class": "lantern", "count": 3}],
        },
        {"tag": "position", "include": [lantern, {"class": "owl", "count": 1, "position": ["left of", 0]}]},
        {"tag": "color_attr", "include": [{**lantern, "color": "red"}], "exclude": [{"class": "lantern", "count": 2}]},
        {"tag": "none", "include": [], "exclude": [{"class": "owl", "count": 1}]},
    ]
    lines = "\n".join(json.dumps({**row, "prompt": f"prompt {i}"}) for i, row in enumerate(rows))
    save(tmp_path / "prompts" / "evaluation_metadata.jsonl", lines + "\n")
    counting, position, colour, none = load_prompts(f"geneval={tmp_path}")
    assert (counting.id, counting.text, counting.tags) == ("counting-0000", "prompt 0", ("counting",))
    assert counting.objects == (ObjectSpec("lantern", None, 2, 2),)
    assert position.objects == (ObjectSpec("lantern"), ObjectSpec("owl"))
    assert position.relations == (RelationSpec(1, "left of", 0),)
    # One red lantern at least, and one lantern of whatever colour at most, are two conditions.
    assert colour.objects == (ObjectSpec("lantern", "red"), ObjectSpec("lantern", None, 0, 1))
    assert none.objects == (ObjectSpec("owl", None, 0, 0),)


def test_dpg_bench_joins_texts_and_questions(tmp_path: Path) -> None:
    with (tmp_path / "dpg_bench.csv").open("w", newline="") as file:
        table = csv.writer(file)
        columns = ["item_id", "text", "keywords", "proposition_id", "dependency", "category_broad", "category_detailed"]
        table.writerow([*columns, "tuple", "question_natural_language"])
        table.writerow(["COCO7", "A hut.\nIt is red.", "", 2, 1, "attribute", "color", "t", "Is the hut red?"])
        table.writerow(["COCO7", "A hut.\nIt is red.", "", 1, 0, "entity", "whole", "t", "Is there a hut?"])
    (from_table,) = load_prompts(f"dpg-bench={tmp_path / 'dpg_bench.csv'}")
    assert (from_table.id, from_table.text) == ("coco7", "A hut.\nIt is red.")
    assert from_table.questions == ("Is there a hut?", "Is the hut red?")
    assert set(from_table.tags) == {"entity", "attribute"}
    save(tmp_path / "prompts" / "COCO7.txt", "A red hut.\n")
    save(tmp_path / "prompts" / "8.txt", "A pond.\n")
    for place in (tmp_path, tmp_path / "prompts"):
        eight, seven = load_prompts(f"dpg-bench={place}")
        assert (eight.id, eight.text, eight.questions) == ("8", "A pond.", ())
        assert (seven.text, seven.questions) == ("A red hut.", from_table.questions)


def test_t2i_compbench_takes_the_validation_files_of_a_folder(tmp_path: Path) -> None:
    save(tmp_path / "3d_spatial_val.txt", "a mug in front of a hat\n\n")
    save(tmp_path / "color_val.txt", "a grey hat\na blue mug")
    save(tmp_path / "color_val_seen.txt", "a grey hat")
    save(tmp_path / "color_train.txt", "a brown mug")
    prompts = load_prompts(f"t2i-compbench={tmp_path}")
    assert [(p.id, p.tags) for p in prompts] == [
        ("3d-spatial-val-0000", ("3d-spatial",)),
        ("color-val-0000", ("color",)),
        ("color-val-0001", ("color",)),
    ]
    assert load_prompts(f"t2i-compbench={tmp_path / 'color_train.txt'}")[0].tags == ("color",)


def test_genai_bench_with_and_without_skills(tmp_path: Path) -> None:
    rows = {"00001": {"id": "00001", "prompt": "No hat.", "models": {"m": [1, 2]}}, "00002": {"prompt": "A mug."}}
    path = save(tmp_path / "genai_image.json", json.dumps(rows))
    assert [p.tags for p in load_prompts(f"genai-bench={path}")] == [(), ()]
    save(tmp_path / "genai_skills.json", json.dumps({"negation": [1], "part relation": [1, 2]}))
    first, second = load_prompts(f"genai-bench={tmp_path}")
    assert (first.id, first.text, first.tags) == ("genai-00001", "No hat.", ("negation", "part-relation"))
    assert second.tags == ("part-relation",)


def test_tifa_keeps_questions_whose_answer_is_yes(tmp_path: Path) -> None:
    def row(question: str, choices: list[str], answer: str) -> dict[str, object]:
        return {"id": "coco_12", "caption": "A mug.", "question": question, "choices": choices, "answer": answer}

    rows = [
        row("is there a mug?", ["yes", "no"], "yes"),
        row("is there a hat?", ["yes", "no"], "no"),
        row("what is it?", ["mug", "hat", "cat", "car"], "mug"),
        {"id": "drawbench_3", "caption": "A hat."},
    ]
    mug, hat = load_prompts(f"tifa={save(tmp_path / 'qa.json', json.dumps(rows))}")
    assert (mug.id, mug.text, mug.tags, mug.questions) == ("coco-12", "A mug.", ("coco",), ("is there a mug?",))
    assert (hat.id, hat.tags, hat.questions) == ("drawbench-3", ("drawbench",), ())


@pytest.mark.parametrize("suite", PUBLISHED, ids=lambda suite: suite.name)
def test_a_wrong_file_is_named_with_the_remedy(suite, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "empty").mkdir()
    wrong = save(tmp_path / "wrong.json", '{"unexpected": 1}')
    sources = [str(tmp_path / "gone"), str(tmp_path / "empty"), str(wrong)]
    for place in sources[: 2 if suite.name == "t2i-compbench" else 3]:  # any text is a list of prompts there
        with pytest.raises(InputError) as error:
            load_prompts(f"{suite.name}={place}")
        assert place in str(error.value) and suite.source in str(error.value)
        assert "\n" not in str(error.value)


def test_names_are_explained() -> None:
    with pytest.raises(InputError, match=r"not bundled; give parti-prompts=PATH .*or parti-prompts=hub"):
        load_prompts("parti-prompts")
    with pytest.raises(InputError, match="Did you mean 'drawbench'"):
        load_prompts("draw-bench=x.csv")
    with pytest.raises(InputError, match="not fetched from the hub"):
        load_prompts("geneval=hub")


OFFLINE = """
import sys
from pixeval.suites import load_prompts
from pixeval.errors import InputError
try:
    print(load_prompts(sys.argv[1])[0].text)
except InputError as error:
    print("InputError", error)
"""


def offline(source: str, cache: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
    command = [sys.executable, "-c", OFFLINE, source]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)


def test_the_hub_is_one_clear_line_away_when_offline(tmp_path: Path) -> None:
    result = offline("parti-prompts=hub", tmp_path)
    assert result.stdout.count("\n") == 1 and result.stderr == ""
    assert "could not be fetched from the hub" in result.stdout and "parti-prompts=PATH" in result.stdout
    assert "not/a/name" in offline("parti-prompts=hub:not/a/name", tmp_path).stdout


def test_what_the_hub_cached_is_read_offline(tmp_path: Path) -> None:
    for dataset, file, text in (
        ("nateraw--parti-prompts", "PartiPrompts.tsv", "Prompt\tCategory\tChallenge\tNote\na hut\tA\tB\t\n"),
        ("some--copy", "PartiPrompts.tsv", "Prompt\tCategory\tChallenge\tNote\na pond\tA\tB\t\n"),
        ("ymhao--HPDv2", "benchmark/anime.json", '["a mill"]'),
    ):
        root = tmp_path / f"datasets--{dataset}"
        save(root / "refs" / "main", "0" * 40)
        save(root / "snapshots" / ("0" * 40) / file, text)
        for style in ("concept-art", "paintings", "photo"):
            save(root / "snapshots" / ("0" * 40) / "benchmark" / f"{style}.json", "[]")
    assert offline("parti-prompts=hub", tmp_path).stdout == "a hut\n"
    assert offline("parti-prompts=hub:some/copy", tmp_path).stdout == "a pond\n"
    assert offline("hpsv2=hub", tmp_path).stdout == "a mill\n"


def test_the_listing_shows_bundled_and_published_suites(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["list", "suites", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    general = next(row for row in found["suites"] if row["name"] == "general")
    assert set(found) == {"suites", "published_suites"}
    assert general["prompts"] == 600 and general["questions"] > 600 and general["with_objects"] > 90
    assert general["tags"]["counting"] >= 25
    assert [row["name"] for row in found["published_suites"]] == [suite.name for suite in PUBLISHED]
    assert cli.run(["list", "suites"]) == 0
    shown = capsys.readouterr().out
    assert "general  600 prompts" in shown and "t2i-compbench" in shown


def test_listing_suites_imports_no_torch() -> None:
    code = "import sys; from pixeval import cli; cli.run(['list', 'suites']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
