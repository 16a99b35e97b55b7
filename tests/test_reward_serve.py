"""The JSON service of a reward: what a hostile request costs, and what a client makes of a service that misbehaves."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image
from safetensors.torch import save_file
from tiny_png import png_that_says
from torch import Tensor

from pixeval.encoders import ClipEncoder
from pixeval.errors import InputError
from reward_models import remote, sources
from reward_models.remote import MOST_ITEMS, RemoteReward
from reward_models.serve import MOST_BODY, score_items, service
from reward_models.sources import Source, in_parts, open_source

JSON = {"Content-Type": "application/json"}


class Lengths:
    """The number of letters of the prompt; some prompts make it stumble before it looks at an image."""

    fingerprint = "lengths/1"

    def __init__(self) -> None:
        self.together: list[int] = []

    def __call__(self, images: Tensor, prompts: list[str]) -> Tensor:
        self.together.append(len(images))
        return torch.tensor([float(len(prompt)) for prompt in prompts])

    def hindrance(self, prompt: str) -> str | None:
        if prompt == "stumble":
            raise KeyError("no\nsuch word")
        return "too long for it" if len(prompt) > 20 else None


def source(scorer: Any = None, **options: Any) -> Source:
    return Source("lengths", scorer or Lengths(), 1.0, False, "cpu", **options)


def encoded(width: int, height: int, kind: str = "PNG") -> str:
    buffer = BytesIO()
    Image.new("RGB", (width, height), (90, 120, 40)).save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


def bomb(width: int, height: int) -> str:
    return base64.b64encode(png_that_says(width, height)).decode()


def test_images_that_unfold_and_formats_that_run_programs_are_refused_by_their_heads() -> None:
    eps = base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n").decode()
    pictures = [bomb(8000, 8000), bomb(100_000, 100_000), eps, encoded(9, 9, "TIFF"), encoded(9, 9, "BMP")]
    pictures += [encoded(9, 9, kind) for kind in ("PNG", "JPEG", "WEBP")]
    found = score_items(source(), [{"prompt": "abc", "image": picture} for picture in pictures])
    assert "8000x8000 pixels; the limit is 32 million" in found[0]["error"]
    assert "decompression bomb" in found[1]["error"]
    assert all("unknown format" in row["error"] for row in found[2:5])
    assert [row["reward"] for row in found[5:]] == [3.0, 3.0, 3.0]


def test_images_are_decoded_and_scored_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PART_PIXELS", 250)
    waiting = 0
    made = []

    def images() -> Iterator[tuple[int, Tensor]]:
        nonlocal waiting
        for place in range(7):
            waiting += 1
            made.append(waiting)
            yield place, torch.zeros(3, 10, 10)

    places = []
    for part in in_parts(images()):
        places += [place for place, _ in part]
        waiting -= len(part)
    assert places == list(range(7)) and max(made) == 3
    scorer = Lengths()
    rows = score_items(source(scorer), [{"prompt": "p" * (k + 1), "image": encoded(10, 10)} for k in range(7)])
    assert scorer.together == [3, 3, 1]
    assert [row["reward"] for row in rows] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    monkeypatch.setattr(sources, "PART_PIXELS", 10**9)
    assert [len(part) for part in in_parts((k, torch.zeros(3, 1, 1)) for k in range(40))] == [16, 16, 8]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ('{"items": NaN}', 422, "no JSON"),
        ('{"items": [NaN]}', 422, "no JSON"),
        ('{"items": [{"prompt": "a", "image": Infinity}]}', 422, "no JSON"),
        ("[" * 100_000, 422, "no JSON"),
        (b"\xff\xfe\x00{", 422, "no JSON"),
        ('["secret"]', 422, "an object with 'items'"),
        ('{"items": "secret"}', 422, "a list of one or more"),
        ('{"items": [], "secret\\ud800": 1}', 422, "a list of one or more"),
        (json.dumps({"items": ["secret"] * (MOST_ITEMS + 1)}), 422, "257 items; 256 are the most"),
        (b" " * (MOST_BODY + 1), 413, "at most 64 MB"),
    ],
    ids=["nan", "nan in a list", "infinity", "deep", "bytes", "list", "text", "surrogate", "too many", "too large"],
)
def test_a_bad_request_gets_a_short_answer_that_repeats_nothing(body: str | bytes, status: int, says: str) -> None:
    answer = TestClient(service(source())).post("/v1/score", content=body, headers=JSON)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert says in answer.json()["error"]
    assert len(answer.text) < 200 and "secret" not in answer.text


def test_a_model_that_stumbles_over_one_prompt_answers_the_others() -> None:
    prompts = ["abc", "stumble", "long " * 10, "abcd", "half \ud800"]
    items = [{"prompt": prompt, "image": encoded(9, 9)} for prompt in prompts]
    items += [{"prompt": "tiny", "image": encoded(3, 9)}, {"prompt": ["\udfff"], "image": "\ud800"}]
    answer = TestClient(service(source(least_side=4))).post("/v1/score", content=json.dumps({"items": items}))
    found = answer.json()["results"]
    assert [row.get("reward") for row in found] == [3.0, None, None, 4.0, None, None, None]
    assert found[1]["error"].startswith("the metric failed: KeyError")
    assert found[2]["error"] == "too long for it"
    assert "half of a surrogate pair" in found[4]["error"]
    assert found[5]["error"] == "the image has 3x9 pixels; lengths needs at least 4 a side"
    assert found[6]["error"] == "'prompt' must be a string"


def test_metrics_without_a_prompt_are_served_and_lower_ones_turned_round(tmp_path: Path) -> None:
    width = ClipEncoder.load()(torch.zeros(1, 3, 32, 32)).shape[1]
    save_file({"weight": torch.ones(1, width), "bias": torch.zeros(1)}, tmp_path / "head.safetensors")
    head = f"laion_aesthetic={tmp_path / 'head.safetensors'}"
    aesthetic = open_source("laion_aesthetic", [head])
    (found,) = score_items(aesthetic, [{"image": encoded(32, 32)}])
    image = torch.tensor([90, 120, 40]).view(1, 3, 1, 1).expand(1, 3, 32, 32) / 255
    assert found["reward"] == pytest.approx(float(ClipEncoder.load()(image).sum()), abs=1e-5)
    assert score_items(open_source("noise"), [{"image": encoded(32, 32)}])[0]["reward"] <= 0
    for name in ("psnr", "composition", "caption_rank", "vendi_score"):
        with pytest.raises(InputError, match="does not judge single images"):
            open_source(name)


class Misbehaving(BaseHTTPRequestHandler):
    """A service that says what it is told to."""

    answers: dict[str, Any] = {}  # noqa: RUF012
    counts: list[int] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.say(Misbehaving.answers["model"])

    def do_POST(self) -> None:
        items = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["items"]
        Misbehaving.counts.append(len(items))
        found = Misbehaving.answers["score"]
        self.say(found(items) if callable(found) else found)

    def say(self, found: Any) -> None:
        data = found if isinstance(found, bytes) else json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def misbehaving() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Misbehaving)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    Misbehaving.answers = {"model": {"fingerprint": "first/1"}}
    Misbehaving.counts = []
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ([1], "no fingerprint"),
        ({}, "no fingerprint"),
        ({"fingerprint": "a\nb"}, "no fingerprint"),
        (b"no JSON", "no reward service answers .*JSONDecodeError"),
        (b"[" * 100_000, "no reward service answers .*RecursionError"),
    ],
)
def test_what_is_no_service_is_told_in_one_line(told: Any, says: str, misbehaving: str) -> None:
    Misbehaving.answers["model"] = told
    with pytest.raises(InputError, match=says) as error:
        RemoteReward(misbehaving)
    assert "\n" not in str(error.value)


def test_an_answer_that_is_cut_off_or_an_address_that_is_none_is_told(misbehaving: str) -> None:
    Misbehaving.answers["model"] = b'{"fingerprint": "fi'
    for address, says in ((misbehaving, "JSONDecodeError"), ("http://a b/", "InvalidURL"), ("http://[", "ValueError")):
        with pytest.raises(InputError, match=f"no reward service answers at .*{says}"):
            RemoteReward(address)


@pytest.mark.parametrize(
    ("results", "says"),
    [
        ([], "not one result for each of 2"),
        ({"reward": 1.0}, "not one result for each"),
        ([{}, {}], "without a finite reward"),
        ([1.0, 2.0], "without a finite reward"),
        ([{"reward": True}] * 2, "without a finite reward"),
        ([{"reward": float("nan")}] * 2, "without a finite reward"),
        ([{"reward": "1"}] * 2, "without a finite reward"),
    ],
)
def test_rewards_that_are_none_are_not_taken_for_some(results: Any, says: str, misbehaving: str) -> None:
    reward = RemoteReward(misbehaving)
    Misbehaving.answers["score"] = {"fingerprint": "first/1", "results": results}
    with pytest.raises(InputError, match=says):
        reward(torch.zeros(2, 3, 8, 8), ["a", "b"])


def test_a_service_with_another_model_is_not_taken_for_the_first(misbehaving: str) -> None:
    reward = RemoteReward(misbehaving)
    assert reward.fingerprint == "remote/1/first/1"
    Misbehaving.answers["score"] = {"fingerprint": "second/1", "results": [{"reward": 1.0}]}
    with pytest.raises(InputError, match=r"serves another reward \(second/1, before first/1\)"):
        reward(torch.zeros(1, 3, 8, 8), ["a"])


def test_requests_are_no_larger_than_the_service_takes(misbehaving: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def lengths(items: list[dict[str, str]]) -> dict[str, Any]:
        return {"fingerprint": "first/1", "results": [{"reward": len(item["prompt"])} for item in items]}

    Misbehaving.answers["score"] = lengths
    reward, prompts = RemoteReward(misbehaving), ["p" * (k % 7 + 1) for k in range(300)]
    assert reward(torch.zeros(300, 3, 8, 8), prompts).tolist() == [float(len(p)) for p in prompts]
    assert Misbehaving.counts == [256, 44]
    monkeypatch.setattr(remote, "MOST_BODY", 1000)
    Misbehaving.counts.clear()
    assert len(reward(torch.zeros(5, 3, 8, 8), prompts[:5])) == 5
    assert len(Misbehaving.counts) > 1
