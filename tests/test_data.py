"""Where training data come from, in what order they are read, and what is kept of them on disk."""

import io
import json
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from test_training import preference_config, sft_config
from tiny_data import paint
from tiny_models import CAPTIONS, RESOLUTION, save_tiny

from pixeval.errors import InputError
from pixeval.pair_folder import export_pairs
from pixeval.records import Pair
from trainers.data import captioned_latents
from trainers.families.detect import load
from trainers.flaw_maps import FlawConfig, FlawMaps
from trainers.image_sets import read_captioned
from trainers.pair_sets import ReadPair, read_pairs
from trainers.preference import train_preference
from trainers.sft import train_sft
from trainers.tables import DatasetConfig, decode_cell, open_tables

SIZE = (RESOLUTION, RESOLUTION)


def picture(seed: int, size: tuple[int, int] = SIZE, kind: str = "PNG") -> bytes:
    colours = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colours).resize(size[::-1], Image.Resampling.BICUBIC).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def make_world(root: Path) -> Path:
    """models/sd-epsilon, sft/ and pairs/ of six images and five pairs."""
    save_tiny("sd-epsilon", root / "models" / "sd-epsilon")
    (root / "sft").mkdir()
    for i, caption in enumerate(CAPTIONS):
        (root / "sft" / f"{i}.png").write_bytes(picture(i))
        (root / "sft" / f"{i}.txt").write_text(caption)
    pairs = []
    for i, caption in enumerate(CAPTIONS[:5]):
        for side in (0, 1):
            paint(root / f"pair-{i}-{side}.png", 100 + 2 * i + side)
        chosen, rejected = (str(root / f"pair-{i}-{side}.png") for side in (0, 1))
        pairs.append(Pair(f"p{i}", caption, f"c{i}", f"r{i}", chosen, rejected, "a", "b", 0.8, "votes:appeal"))
    export_pairs(pairs, root / "pairs", "test")
    return root


def pick_a_pic(path: Path) -> Path:
    """The columns of yuvalkirstain/pickapic_v1 as its card lists them; the last five rows cannot be used as is."""
    rows: list[dict[str, Any]] = []
    labels = [(1.0, 0.0), (0.0, 1.0), (1.0, 0.0), (0.5, 0.5), (0.0, 0.0), (None, None), (1.0, 0.0), (1.0, 0.0)]
    for i, (first, second) in enumerate(labels):
        images = [picture(200 + 2 * i, kind="JPEG"), picture(201 + 2 * i, kind="JPEG")]
        rows.append(
            {
                "are_different": True, "best_image_uid": "x", "caption": CAPTIONS[i % 6], "created_at": None,
                "has_label": i not in (4, 5), "image_0_uid": f"a{i}", "image_0_url": "", "image_1_uid": f"b{i}",
                "image_1_url": "", "jpg_0": images[0], "jpg_1": images[1], "label_0": first, "label_1": second,
                "model_0": "m", "model_1": "n", "ranking_id": i, "user_id": 0, "num_example_per_prompt": 1,
                "__index_level_0__": i,
            }
        )  # fmt: skip
    rows[6]["jpg_1"] = rows[6]["jpg_1"][:100]
    rows[7]["caption"] = "  "
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_pick_a_pic_as_it_is_published(world: Path, tmp_path: Path) -> None:
    file = pick_a_pic(tmp_path / "train-00000.parquet")
    found = list(read_pairs(file, False, DatasetConfig()))
    pairs = [pair for pair in found if isinstance(pair, ReadPair)]
    assert [(p.chosen.uid, p.rejected.uid) for p in pairs] == [("a0", "b0"), ("b1", "a1"), ("a2", "b2")]
    assert [pair.soft_label for pair in pairs] == [1.0, 1.0, 1.0]
    left_out = [row.kind for row in found if not isinstance(row, ReadPair)]
    assert left_out == ["tie", "no label", "no label", "image", "caption"]
    half = [pair for pair in read_pairs(file, False, DatasetConfig(ties="half")) if isinstance(pair, ReadPair)]
    assert [pair.soft_label for pair in half] == [1.0, 1.0, 1.0, 0.5]
    first, second = (torch.from_numpy(np.array(Image.open(io.BytesIO(picture(i, kind="JPEG"))))) for i in (203, 202))
    torch.testing.assert_close(pairs[1].chosen.image, first.permute(2, 0, 1) / 255)
    torch.testing.assert_close(pairs[1].rejected.image, second.permute(2, 0, 1) / 255)

    run = train_preference(preference_config(world, tmp_path / "run", data=file, objective="latent"))
    told = run.info["data"]
    assert told["used"] == 3
    assert told["skipped"] == {"no label": 2, "tie": 1, "image": 1, "caption": 1}
    assert told["first_skipped"][0] == "train-00000.parquet, row 4: was judged a tie"
    assert len(json.loads((run.path / "skipped.json").read_text())) == 5
    halves = {"dataset": DatasetConfig(ties="half"), "data": file}
    with pytest.raises(InputError, match="give both"):
        train_preference(preference_config(world, tmp_path / "half", **halves))
    run = train_preference(preference_config(world, tmp_path / "half", **halves, soft_labels=True, objective="latent"))
    assert run.info["data"]["used"] == 4


def test_only_files_of_the_hub_and_its_caches_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand in rows of image folders, also where the cache is behind a link; other paths could be anything."""
    import datasets
    import huggingface_hub

    for name in ("disk", "hub", "mine"):
        (tmp_path / name).mkdir()
    (tmp_path / "cache").symlink_to("disk")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("disk", "hub", "mine"):
        (tmp_path / name / "x.png").write_bytes(picture(0))
        with zipfile.ZipFile(tmp_path / name / "images.zip", "w") as archive:
            archive.writestr("x.png", picture(1))
    expected = decode_cell({"bytes": picture(0), "path": None}, "x")
    for path in ("cache/x.png", "disk/x.png", "hub/x.png"):
        found = decode_cell({"bytes": None, "path": str(tmp_path / path)}, "x")
        assert isinstance(found, torch.Tensor) and isinstance(expected, torch.Tensor) and torch.equal(found, expected)
    packed = decode_cell({"bytes": None, "path": f"zip://x.png::{tmp_path}/cache/images.zip"}, "x")
    assert isinstance(packed, torch.Tensor) and not torch.equal(packed, expected)
    (tmp_path / "hub" / "images.zip").write_bytes(b"PK")
    damaged = decode_cell({"bytes": None, "path": f"zip://x.png::{tmp_path}/hub/images.zip"}, "x")
    assert "cannot read" in str(damaged)
    opened: list[str] = []
    monkeypatch.setattr("fsspec.open", lambda path, mode: opened.append(path) or io.BytesIO(picture(0)))
    allowed = ["hf://datasets/owner/name/x.png", "zip://images/x.png::hf://datasets/owner/name/images.zip"]
    refused = [
        f"{tmp_path}/mine/x.png", f"zip://x.png::{tmp_path}/mine/images.zip", f"file://{tmp_path}/mine/x.png::hf://a/b",
        f"{tmp_path}/cache/../mine/x.png", "a\0b", "https://example.org/x.png", "",
    ]  # fmt: skip
    for path in allowed:
        assert isinstance(decode_cell({"bytes": None, "path": path}, "x"), torch.Tensor)
    for path in refused:
        assert decode_cell({"bytes": None, "path": path}, "x") == "holds no image"
    assert opened == allowed


def test_text_that_is_not_utf_8_is_one_bad_row(tmp_path: Path) -> None:
    texts = pa.Array.from_buffers(pa.string(), 3, pa.array([b"a", b"\xe9", b"c"]).buffers())
    pq.write_table(pa.table({"text": texts, "image": [picture(i) for i in range(3)]}), tmp_path / "latin.parquet")
    found = list(read_captioned(tmp_path / "latin.parquet"))
    assert [(entry.caption, isinstance(entry.image, str)) for entry in found] == [
        ("a", False),
        ("", True),
        ("c", False),
    ]


@pytest.mark.parametrize("published", [False, True])
def test_soft_labels_that_are_no_preference_leave_a_pair_out(published: bool, tmp_path: Path) -> None:
    """The same for both kinds of tables: nothing and NaN are certainty, and the wrong way round is an error."""
    columns = ("jpg_0", "jpg_1") if published else ("chosen", "rejected")
    row = {**dict(zip(columns, (picture(0), picture(1)), strict=True)), "prompt": "a"}
    row |= {"label_0": 1.0, "label_1": 0.0} if published else {}

    def read(labels: list[Any], ties: Any = "drop") -> list[Any]:
        file = tmp_path / "pairs.parquet"
        pq.write_table(pa.Table.from_pylist([row | {"soft_label": label} for label in labels]), file)
        found = read_pairs(file, False, DatasetConfig(ties=ties))
        return [pair.soft_label if isinstance(pair, ReadPair) else pair.kind for pair in found]

    assert read([0.7, math.nan, None, 0.2, 0.0, math.inf, 0.5, 1.0]) == [
        0.7, 1.0, 1.0, "label", "label", "label", "tie", 1.0
    ]  # fmt: skip
    assert read([0.5], "half") == [0.5]
    assert read(["0.7", "x", None]) == ["label", "label", 1.0]


def test_labels_that_are_no_numbers_are_no_labels(tmp_path: Path) -> None:
    row = {"jpg_0": picture(0), "jpg_1": picture(1), "caption": "a"}
    pq.write_table(pa.Table.from_pylist([row | {"label_0": "yes", "label_1": "no"}]), tmp_path / "pairs.parquet")
    assert [pair.kind for pair in read_pairs(tmp_path / "pairs.parquet", False, DatasetConfig())
            if not isinstance(pair, ReadPair)] == ["no label"]  # fmt: skip


def test_our_own_export_is_the_same_data_in_both_of_its_tables(world: Path) -> None:
    own, published = (
        [pair for pair in read_pairs(world / name, False, DatasetConfig()) if isinstance(pair, ReadPair)]
        for name in ("pairs", "pairs/pickapic")
    )
    assert len(own) == len(published) == 5
    for a, b in zip(own, published, strict=True):
        assert (a.prompt, a.chosen.uid, a.rejected.uid, a.soft_label) == (
            b.prompt, b.chosen.uid, b.rejected.uid, b.soft_label
        )  # fmt: skip
        assert torch.equal(a.chosen.image, b.chosen.image) and torch.equal(a.rejected.image, b.rejected.image)


def hub_folder(root: Path, n: int = 6) -> Path:
    """A data set as it lies on the hub: a card and Parquet files with an Image column under a name of its own."""
    import datasets

    rows = [{"picture": {"bytes": picture(i), "path": None}, "blurb": CAPTIONS[i % 6], "size": i} for i in range(n)]
    rows[1]["picture"] = {"bytes": b"no image", "path": None}
    rows[2]["blurb"] = ""
    text, number, struct = (datasets.Value(kind) for kind in ("string", "int64", "binary"))
    stored = datasets.Features({"picture": {"bytes": struct, "path": text}, "blurb": text, "size": number})
    data = datasets.Dataset.from_list(rows, features=stored).cast_column("picture", datasets.Image(decode=False))
    (root / "data").mkdir(parents=True)
    data.to_parquet(root / "data" / "train-00000.parquet")
    return root


@pytest.mark.parametrize("streaming", [True, False])
def test_a_data_set_of_the_hub_is_read_row_by_row(
    streaming: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same calls as for a name on the hub, here with a folder below the current one as owner/name."""
    import datasets

    datasets.disable_progress_bars()
    hub_folder(tmp_path / "owner" / "name")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("trainers.tables._on_hub", lambda source: source == Path("owner/name"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    found = list(read_captioned(Path("owner/name"), config=DatasetConfig(streaming=streaming)))
    assert [(entry.caption, entry.fault if isinstance(entry.image, str) else "") for entry in found] == [
        (CAPTIONS[0], ""), (CAPTIONS[1], "image"), ("", "caption"), *((c, "") for c in CAPTIONS[3:])
    ]  # fmt: skip
    assert len(list(read_captioned(Path("owner/name"), config=DatasetConfig(streaming=streaming, max_rows=2)))) == 2
    with pytest.raises(InputError, match="neither a folder nor a data set"):
        list(open_tables(Path("owner/name"), DatasetConfig(split="trian", streaming=streaming)))
    with pytest.raises(InputError, match="'picture'"):
        list(read_captioned(Path("owner/name"), config=DatasetConfig(image_column="pictur")))


def test_a_stream_of_any_length_is_read_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 5,000 rows three are taken; the rest is never decoded."""
    rows = [{"image": picture(i % 7), "text": "a"} for i in range(5000)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "long.parquet", row_group_size=64)
    decoded: list[str] = []

    def decode(cell: Any, name: str) -> torch.Tensor:
        decoded.append(name)
        return torch.zeros(3, 4, 4)

    monkeypatch.setattr("trainers.image_sets.decode_cell", decode)
    assert len(list(read_captioned(tmp_path / "long.parquet", config=DatasetConfig(max_rows=3)))) == 3
    assert len(decoded) == 3


def test_bad_lines_of_metadata_are_named_and_the_rest_is_read(world: Path, tmp_path: Path) -> None:
    lines = [
        b'\xef\xbb\xbf{"file_name": "0.png", "text": "a line \xe2\x80\xa8 separator"}',
        b'{"text": "no name"}', b'{"file_name": "0.png"}', b'{"file_name": "0.png", "text":', b"[1]", b"[" * 100_000,
        b'{"file_name": "0.png", "text": "latin \xe9"}', b'{"file_name": "a\\u0000b.png", "text": "a"}',
        b'{"file_name": "\\ud800.png", "text": "a"}', b'{"file_name": "0.png", "text": "half \\ud83d"}', b"",
        b'{"file_name": "0.png", "text": 5}', b'{"file_name": "0.png", "text": "last"}',
    ]  # fmt: skip
    expected = [
        ("metadata.jsonl, line 2", "has no file_name", "row"), ("metadata.jsonl, line 3", "has no text", "caption"),
        ("metadata.jsonl, line 4", "is not JSON", "row"), ("metadata.jsonl, line 5", "is no JSON object", "row"),
        ("metadata.jsonl, line 6", "is not JSON", "row"), ("metadata.jsonl, line 7", "is not JSON", "row"),
        ("a\0b.png", "is no name", "image"), ("\ud800.png", "is no name", "image"),
        ("0.png", "is not Unicode", "caption"), ("0.png", "has no caption", "caption"),
    ]  # fmt: skip
    (tmp_path / "0.png").write_bytes(picture(0))
    (tmp_path / "metadata.jsonl").write_bytes(b"\n".join(lines))
    model = load(world / "models/sd-epsilon")
    data = captioned_latents(model, tmp_path, SIZE)
    assert data.texts.prompts == ("", "a line \u2028 separator", "last")
    for skipped, (name, reason, kind) in zip(data.skipped, expected, strict=True):
        assert (skipped.name, skipped.kind) == (name, kind) and reason in skipped.reason
    (tmp_path / "metadata.jsonl").write_bytes(b"\n".join(lines[1:3]))
    with pytest.raises(
        InputError, match=r"1 by row, 1 by caption\. First problem: metadata\.jsonl, line 1: has no file"
    ):
        captioned_latents(model, tmp_path, SIZE)


def test_bad_rows_of_a_csv_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    rows = [
        b"\xef\xbb\xbffile_name,text", b'0.png,"two\nlines"', b"0.png," + b"x" * 200_000, b"0.png", b",a",
        b"0.png,latin \xe9", b"0.png,last,one too many",
    ]  # fmt: skip
    (tmp_path / "0.png").write_bytes(picture(0))
    (tmp_path / "metadata.csv").write_bytes(b"\r\n".join(rows))
    found = list(read_captioned(tmp_path))
    assert [entry.caption for entry in found if not isinstance(entry.image, str)] == ["two\nlines", "last"]
    left_out = [(entry.name, entry.fault) for entry in found if isinstance(entry.image, str)]
    assert left_out == [
        ("metadata.csv, line 4", "row"), ("0.png", "caption"), ("metadata.csv, line 6", "row"), ("0.png", "caption")
    ]  # fmt: skip


def test_links_are_followed_and_names_do_not_leave_the_folder(tmp_path: Path) -> None:
    """A snapshot of the hub's cache is links into its blobs."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1a2b"
    for folder in (blobs, snapshot / "images"):
        folder.mkdir(parents=True)
    (blobs / "f00d").write_bytes(picture(0))
    (blobs / "cafe").write_text("a caption")
    (snapshot / "images" / "0.png").symlink_to("../../../blobs/f00d")
    (snapshot / "images" / "0.txt").symlink_to("../../../blobs/cafe")
    names = ["images/0.png", "images/../../../blobs/f00d", str(blobs / "f00d"), "../1a2b/images/0.png"]
    lines = "".join(json.dumps({"file_name": name, "text": "a caption"}) + "\n" for name in names)
    (text,) = read_captioned(snapshot)
    (blobs / "beef").write_text(lines)
    (snapshot / "metadata.jsonl").symlink_to("../../blobs/beef")
    first, *others = read_captioned(snapshot)
    assert isinstance(first.image, torch.Tensor) and isinstance(text.image, torch.Tensor)
    assert torch.equal(first.image, text.image) and first.caption == text.caption == "a caption"
    assert [entry.image for entry in others] == ["lies outside the folder"] * 3


def test_flaw_maps_are_found_by_any_name_within_their_folder(tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    for name in ("maps/a.png", "outside.png"):
        (tmp_path / name).write_bytes(picture(0))
    (tmp_path / "maps" / "linked.png").symlink_to("../outside.png")
    maps = FlawMaps(FlawConfig(str(tmp_path / "maps")), torch.device("cpu"))
    assert all(maps.marks_of(name) is not None for name in ("a.jpg", "a", "linked.webp"))
    names = ("../outside", str(tmp_path / "outside"), "a\0b", "\ud800", "..png", "", "x" * 5000, "b")
    assert all(maps.marks_of(name) is None for name in names)


def test_a_folder_saved_by_datasets_and_captions_in_lists(world: Path, tmp_path: Path) -> None:
    import datasets

    rows = [{"img": {"bytes": picture(i), "path": None}, "captions": ["", c, "other"]} for i, c in enumerate(CAPTIONS)]
    data = datasets.Dataset.from_list(rows).cast_column("img", datasets.Image(decode=False))
    datasets.DatasetDict({"train": data, "test": data.select([0])}).save_to_disk(str(tmp_path / "saved"))
    assert [entry.caption for entry in read_captioned(tmp_path / "saved")] == CAPTIONS
    assert len(list(read_captioned(tmp_path / "saved", config=DatasetConfig(split="test")))) == 1
    with pytest.raises(InputError, match="Did you mean 'train'"):
        list(read_captioned(tmp_path / "saved", config=DatasetConfig(split="trian")))


def test_a_source_without_a_usable_row_says_why(world: Path, tmp_path: Path) -> None:
    rows = [{"image": b"x", "text": "a"}, {"image": b"y", "text": "b"}, {"image": picture(0), "text": ""}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "bad.parquet")
    with pytest.raises(InputError, match=r"2 by image, 1 by caption\. First problem: bad\.parquet, row 1"):
        train_sft(sft_config(world, tmp_path / "run", data=tmp_path / "bad.parquet"))
    tied = [{"prompt": "a", "chosen": picture(0), "rejected": picture(1), "soft_label": 0.5}] * 2
    pq.write_table(pa.Table.from_pylist(tied), tmp_path / "tied.parquet")
    with pytest.raises(InputError, match="2 by tie"):
        train_preference(preference_config(world, tmp_path / "run", data=tmp_path / "tied.parquet"))
    assert not (tmp_path / "run").exists()
