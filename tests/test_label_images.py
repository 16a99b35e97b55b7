"""Images of the labelling app: hostile files are refused, members get pixels and nothing else."""

import io
import struct
import zlib
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from label_study import two_runs
from PIL import Image, PngImagePlugin

from human_eval_app import images
from human_eval_app.accounts import enrolment_token
from human_eval_app.projects import image_key
from human_eval_app.schedule import Design
from human_eval_app.store import Store
from human_eval_app.study import open_study, read_arms
from human_eval_app.ui import create_app
from pixeval.runs import Run


def _png(width: int, height: int, body: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def test_hostile_image_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bomb.png").write_bytes(_png(60_000, 60_000))
    (tmp_path / "wide.png").write_bytes(_png(2**31 - 1, 1))
    (tmp_path / "short.png").write_bytes(_png(64, 64, b"\0"))
    (tmp_path / "text.png").write_text("<svg onload=alert(1)>")
    (tmp_path / "page.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    (tmp_path / "script.png").write_bytes((tmp_path / "page.eps").read_bytes())
    for name in ("bomb.png", "wide.png", "text.png", "page.eps", "script.png", "none.png", "."):
        with pytest.raises(images.UnusableImage):
            images.image_size(tmp_path / name)
    assert images.image_size(tmp_path / "short.png") == (64, 64)
    with pytest.raises(images.UnusableImage):
        images.encode(tmp_path / "short.png")
    monkeypatch.setattr(images, "MAX_BYTES", 10)
    with pytest.raises(images.UnusableImage, match="larger"):
        images.image_size(tmp_path / "short.png")


def test_images_are_served_without_metadata_to_members_only(tmp_path: Path) -> None:
    runs = two_runs(tmp_path)
    for run in runs:
        for sample in Run.open(run).samples():
            chunks = PngImagePlugin.PngInfo()
            chunks.add_text("parameters", "tunedmodel, 50 steps")
            with Image.open(run / sample.path) as image:
                image.load()
            exif = image.getexif()
            exif[0x0112], exif[0x010E] = 6, "tunedmodel"
            image.crop((0, 0, 32, 64)).save(run / sample.path, pnginfo=chunks, exif=exif)
    arms = read_arms(runs)
    store = Store.at(tmp_path / "votes.sqlite3")
    project = open_study(store, arms, Design())
    broken, fine = list(arms.images)[:2]
    arms.images[broken].write_bytes(b"\x89PNG nothing")
    person = TestClient(create_app(store))
    body = {"token": enrolment_token(store.secret, project), "name": "anna"}
    assert person.get(f"/api/image/{image_key(store.secret, project.id, fine)}").status_code == 401
    assert person.post("/api/join", json=body).status_code == 200
    reply = person.get(f"/api/image/{image_key(store.secret, project.id, fine)}")
    assert reply.status_code == 200 and b"parameters" not in reply.content and b"tunedmodel" not in reply.content
    with Image.open(io.BytesIO(reply.content)) as shown:
        assert shown.size == (64, 32) and set(shown.info) == set()
    assert reply.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert "etag" not in reply.headers and "last-modified" not in reply.headers
    unreadable = person.get(f"/api/image/{image_key(store.secret, project.id, broken)}")
    assert unreadable.status_code == 422 and arms.images[broken].name not in unreadable.text
    for key in ("..%2Frun.json", "x", "../../etc/passwd", f"{image_key(store.secret, 'other', fine)}"):
        assert person.get(f"/api/image/{key}").status_code in (404, 200) and b"root:" not in person.get(key).content
    store.close()
