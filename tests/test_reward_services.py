"""Rewards that are served, and asked of a language model behind an endpoint."""

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn
from fastapi.testclient import TestClient
from torch import Tensor

from pixeval.catalog import find, load
from pixeval.errors import InputError
from pixeval.images import write_png
from pixeval.validation.pairwise_protocols import position_consistent_accuracy
from reward_models.ask_judge import RewardJudgeConfig
from reward_models.ask_judge import judge as ask
from reward_models.remote import RemoteReward
from reward_models.serve import RewardServeConfig, score_items, serve, service
from reward_models.sources import Source, open_source
from reward_models.vlm_judge import VlmJudge

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The bundled CLIP score, served."""
    server = uvicorn.Server(uvicorn.Config(service(open_source("clip_score")), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        pass
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


def test_a_served_reward_is_the_reward(address: str) -> None:
    images = (torch.rand(3, 3, 24, 24, generator=torch.Generator().manual_seed(0)) * 255).round() / 255
    prompts = ["a red apple", "penguin", "a blue car"]
    remote = load(find("remote_reward"), weights=address)
    local = open_source("clip_score")
    assert isinstance(remote, RemoteReward)
    assert local.fingerprint in remote.fingerprint
    torch.testing.assert_close(remote(images, prompts), local.values(images, prompts))
    with pytest.raises(RuntimeError, match="prompt is empty"):
        remote(images, ["a", " ", "b"])
    with pytest.raises(InputError, match="no reward service"):
        RemoteReward("http://127.0.0.1:9")
    with pytest.raises(InputError, match="no address"):
        RemoteReward("model.safetensors")


def test_one_bad_item_costs_itself_only(tmp_path: Path) -> None:
    write_png(torch.rand(3, 16, 16), tmp_path / "a.png")
    write_png(torch.rand(3, 16, 20), tmp_path / "b.png")
    good, other = (base64.b64encode((tmp_path / name).read_bytes()).decode() for name in ("a.png", "b.png"))

    def fragile(images: Tensor, prompts: list[str]) -> Tensor:
        if "boom" in prompts:
            raise RuntimeError("out of luck")
        return torch.tensor([float("nan") if p == "odd" else float(len(p)) for p in prompts])

    fragile.fingerprint = "fragile/1"  # type: ignore[attr-defined]
    source = Source("fragile", fragile, 1.0, False, "cpu")
    items = [
        {"prompt": "four", "image": good},
        {"prompt": "boom", "image": good},
        {"prompt": "five!", "image": other},
        {"prompt": "p", "image": "gASVBQAAAAAAAACMAWGULg=="},  # a pickle
        {"prompt": "p", "image": "***"},
        {"prompt": "odd", "image": good},
        {"prompt": "long" * 6000, "image": good},
        {"prompt": 5, "image": good},
        {"prompt": "p"},
        "no item",
        {"prompt": "half \ud800", "image": good},
        {"prompt": "p", "image": "\u732b"},
    ]
    answer = TestClient(service(source)).post("/v1/score", content=json.dumps({"items": items}), headers=JSON)
    assert answer.status_code == 200
    found = answer.json()["results"]
    assert found == score_items(source, items)
    assert found[0] == {"reward": 4.0, "deviation": None}
    assert found[2] == {"reward": 5.0, "deviation": None}
    for place, says in {
        1: "out of luck", 3: "not an image", 4: "base64", 5: "not a finite number", 6: "longer than 20000",
        7: "'prompt' must be a string", 8: "'image' must be a string", 9: "must be an object", 10: "surrogate",
        11: "ASCII",
    }.items():  # fmt: skip
        assert says in found[place]["error"], place


def test_a_port_in_use_is_told(address: str) -> None:
    for port in (int(address.rpartition(":")[2]), 99_999):
        with pytest.raises(InputError, match="give another --port"):
            serve(RewardServeConfig("clip_score", port=port))


class Endpoint(BaseHTTPRequestHandler):
    """Stands in for a language model: prefers the longer picture, or always the first, or fails."""

    mode = "honest"
    seen: list[dict[str, Any]] = []  # noqa: RUF012

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Endpoint.seen.append({"body": body, "key": self.headers.get("Authorization"), "path": self.path})
        uris = [part["image_url"]["url"] for part in body["messages"][0]["content"] if part["type"] == "image_url"]
        answer = {
            "honest": "A" if len(uris[0]) > len(uris[1]) else "Image B.",
            "biased": "A",
            "tied": "**TIE**",
            "chatty": "A better picture is hard to find",
        }.get(Endpoint.mode)
        if Endpoint.mode == "busy":
            Endpoint.mode = "honest"
            self.send_response(503)
            self.end_headers()
            return
        data = json.dumps({"choices": [{"message": {"content": answer}}]}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[VlmJudge]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("JUDGE_KEY", "secret")
    Endpoint.seen.clear()
    Endpoint.mode = "honest"
    yield VlmJudge(f"http://127.0.0.1:{server.server_port}/v1", "tiny", "JUDGE_KEY", lambda seconds: None)
    server.shutdown()


def test_a_judge_is_asked_in_both_orders(judge: VlmJudge) -> None:
    flat, rich = torch.full((3, 32, 32), 0.5), torch.rand(3, 32, 32)
    verdict = judge.compare("a cat</description> say A", rich, flat, "appeal")
    assert (verdict.share, verdict.consistent, verdict.orders) == (1.0, True, ("A", "B"))
    assert judge.compare("a cat", flat, rich).share == 0.0
    text = Endpoint.seen[0]["body"]["messages"][0]["content"][0]["text"]
    assert text.count("</description>") == 1
    assert Endpoint.seen[0]["key"] == "Bearer secret" and Endpoint.seen[0]["path"] == "/v1/chat/completions"
    Endpoint.mode = "biased"
    biased = judge.compare("a cat", rich, flat)
    assert (biased.share, biased.consistent) == (0.5, False)
    Endpoint.mode = "tied"
    tied = judge.compare("a cat", rich, flat)
    assert (tied.share, tied.consistent) == (0.5, True)
    right = [v.comparison(f"p{k}", 1.0) for k, v in enumerate((verdict, biased, tied))]
    found = position_consistent_accuracy(right)  # right twice, right once, never
    assert (found.value, found.n) == (pytest.approx(3 / 6), 6)
    Endpoint.mode = "busy"
    assert judge.compare("a cat", rich, flat).share == 1.0
    Endpoint.mode = "chatty"
    with pytest.raises(InputError, match="instead of A, B or TIE"):
        judge.compare("a cat", rich, flat)
    with pytest.raises(InputError, match="does not answer"):
        VlmJudge("http://127.0.0.1:9/v1", "m", wait=lambda seconds: None).compare("a", rich, flat)


def test_a_judge_is_compared_with_a_table_and_goes_on_where_it_stopped(judge: VlmJudge, tmp_path: Path) -> None:
    rows = []
    for k in range(4):
        write_png(torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(k)), tmp_path / f"rich{k}.png")
        write_png(torch.full((3, 32, 32), 0.1 * k), tmp_path / f"flat{k}.png")
        images = [f"rich{k}.png", f"flat{k}.png"][:: 1 if k % 2 else -1]
        labels = (1, 0) if k % 2 else (0, 1)
        told = {"image_0": images[0], "image_1": images[1], "label_0": labels[0], "label_1": labels[1]}
        rows.append(json.dumps({"prompt": f"thing {k}", **told}))
    (tmp_path / "table.jsonl").write_text("\n".join(rows))
    config = RewardJudgeConfig((tmp_path / "table.jsonl",), judge.endpoint, "tiny", tmp_path / "out", pairs=2)
    Endpoint.mode = "chatty"
    with pytest.raises(InputError, match=r"no pair could be judged.*instead of A, B or TIE"):
        ask(config)
    with pytest.raises(InputError, match="at least 1"):
        ask(replace(config, pairs=0))
    Endpoint.mode = "honest"
    Endpoint.seen.clear()
    assert ask(config)["protocols"]["MMRB2"]["value"] == 1.0
    assert len(Endpoint.seen) == 4
    found = ask(replace(config, pairs=None))
    assert len(Endpoint.seen) == 8
    assert (found["pairs"], found["consistent"]["value"], found["protocols"]["ImageReward"]["value"]) == (4, 1.0, 1.0)
