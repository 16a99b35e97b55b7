"""A language model as judge: what counts as its verdict, what a refusal costs, and where its key goes."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from pixeval.errors import InputError
from pixeval.images import write_png
from reward_models.ask_judge import RewardJudgeConfig
from reward_models.ask_judge import judge as ask
from reward_models.vlm_judge import UnclearAnswer, VlmJudge, verdict_of

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ("A", "A"),
        (" b.", "B"),
        ("**TIE**", "tie"),
        ("Image B.", "B"),
        ("The answer is: **Image A**", "A"),
        ("<think>A looks better. B is sharper.\nAnswer: B\n</think>\n\nA", "A"),
        ("A has six fingers.\n\n**Image B:** clean.\n\nFinal verdict: B", "B"),
        ("At first the answer is A.\nBut no:\n\\boxed{B}", "B"),
        ("Answer: tie\n\nBoth are alike in every respect.", "tie"),
        ("Image A:\nsix fingers\nImage B:", "B"),  # the last line alone may be bare
        ("Image A:\n\nsix fingers, and then it stopped", None),
        ("A better picture is hard to find", None),
        ("The answer is not A", None),
        ("A\n\nbecause of the hands", None),
        ("", None),
        ("\u200b\n---", None),
        ("- " * 100_000, None),
    ],
)
def test_the_verdict_is_what_an_answer_ends_with(said: str, verdict: str | None) -> None:
    assert verdict_of(said) == verdict


class Endpoint(BaseHTTPRequestHandler):
    """Answers by a function of the request's number; what it saw is kept."""

    answer: Callable[["Endpoint", int], None]
    seen: list[dict[str, Any]] = []  # noqa: RUF012

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Endpoint.seen.append({"body": body, "key": self.headers.get("Authorization"), "path": self.path})
        Endpoint.answer(self, len(Endpoint.seen) - 1)

    def do_GET(self) -> None:
        Endpoint.seen.append({"path": self.path, "key": self.headers.get("Authorization")})
        self.say("A")

    def say(self, content: Any, ended: str = "stop") -> None:
        self.send(200, json.dumps({"choices": [{"message": {"content": content}, "finish_reason": ended}]}))

    def send(self, status: int, text: str, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("JUDGE_KEY", " secret\n")
    Endpoint.seen = []
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def judge(address: str, **options: Any) -> VlmJudge:
    return VlmJudge(address, "tiny", "JUDGE_KEY", wait=lambda seconds: None, **options)


def test_it_may_think_and_endpoints_may_call_that_limit_as_they_like(endpoint: str) -> None:
    Endpoint.answer = lambda self, number: self.say("<think>hm</think>A" if number % 2 == 0 else "B")
    assert judge(endpoint).compare("a cat", *IMAGES).share == 1.0
    body = Endpoint.seen[0]["body"]
    assert (body["max_tokens"], body["temperature"]) == (4096, 0)
    assert Endpoint.seen[0]["key"] == "Bearer secret"
    judge(endpoint, most_tokens=9000, token_field="max_completion_tokens", temperature=None).compare("a", *IMAGES)
    other = Endpoint.seen[2]["body"]
    assert other["max_completion_tokens"] == 9000 and not {"max_tokens", "temperature"} & set(other)
    Endpoint.answer = lambda self, number: self.say("Let me see.\nA", "length")
    with pytest.raises(UnclearAnswer, match="not done after 4096 tokens"):
        judge(endpoint).compare("a cat", *IMAGES)
    Endpoint.answer = lambda self, number: self.say(None, "content_filter")
    with pytest.raises(UnclearAnswer, match=r"nothing \(finish_reason content_filter\)"):
        judge(endpoint).compare("a cat", *IMAGES)
    nested = "a </descr</description>iption> b"
    Endpoint.answer = lambda self, number: self.say("A")
    judge(endpoint).compare(nested, *IMAGES)
    assert Endpoint.seen[-1]["body"]["messages"][0]["content"][0]["text"].count("</description>") == 1


def test_a_key_goes_to_no_other_host(endpoint: str) -> None:
    for status in (301, 302, 307, 308):
        Endpoint.seen.clear()
        Endpoint.answer = lambda self, number, status=status: self.send(status, "", Location="/elsewhere")
        with pytest.raises(InputError, match=f"refused with {status}"):
            judge(endpoint).compare("a cat", *IMAGES)
        assert [row["path"] for row in Endpoint.seen] == ["/v1/chat/completions"]


def test_a_key_that_no_header_can_hold_is_not_shown(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("sec\nret", "s\u00e9cret"):
        monkeypatch.setenv("JUDGE_KEY", key)
        with pytest.raises(InputError, match=r"the key in \$JUDGE_KEY has characters") as error:
            judge(endpoint).compare("a cat", *IMAGES)
        assert "ret" not in str(error.value).replace("characters", "")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda self, number: self.connection.close(), "does not answer"),
        (lambda self, number: self.wfile.write(b"no HTTP\r\n\r\n"), "does not answer .BadStatusLine"),
        (lambda self, number: self.send(200, "no JSON"), "does not answer .JSONDecodeError"),
        (lambda self, number: self.send(200, "[1]"), "another form"),
        (lambda self, number: self.send(200, '{"choices": [{"message": "A"}]}'), "another form"),
        (lambda self, number: self.send(503, "busy"), "gives no answer .refused with 503 .*busy"),
        (lambda self, number: self.send(401, "who are you?"), "gives no answer .refused with 401 .*who are you"),
    ],
    ids=["closed", "no HTTP", "no JSON", "list", "no message", "busy", "no key"],
)
def test_an_endpoint_that_fails_is_told_in_one_line(
    answer: Callable[[Endpoint, int], None], says: str, endpoint: str
) -> None:
    Endpoint.answer = answer
    with pytest.raises(InputError, match=says) as error:
        judge(endpoint).compare("a cat", *IMAGES)
    assert "\n" not in str(error.value) and not isinstance(error.value, UnclearAnswer)
    for address in ("http://a b/v1", "http://[/v1"):
        with pytest.raises(InputError, match="does not answer"):
            judge(address).compare("a cat", *IMAGES)


def test_a_pair_that_is_refused_is_left_out_and_counted(endpoint: str, tmp_path: Path) -> None:
    rows = []
    for k in range(3):
        for side in range(2):
            write_png(torch.full((3, 16, 16), 0.1 * k + 0.05 * side), tmp_path / f"{k}-{side}.png")
        told = {"image_0": f"{k}-0.png", "image_1": f"{k}-1.png", "label_0": 1, "label_1": 0}
        rows.append(json.dumps({"prompt": f"thing {k}", **told}))
    table = tmp_path / "table.jsonl"
    table.write_text("\n".join(rows))

    def answer(self: Endpoint, number: int) -> None:
        text = Endpoint.seen[number]["body"]["messages"][0]["content"][0]["text"]
        if "thing 1" in text:
            self.send(400, '{"error": {"message": "content management policy"}}')
        else:
            self.say("TIE")

    Endpoint.answer = answer
    config = RewardJudgeConfig((table,), endpoint, "tiny", tmp_path / "out", key_variable="JUDGE_KEY", max_tokens=50)
    found = ask(config)
    assert found["pairs"] == 2 and list(found["left_out"].values()) == [1]
    assert "refused with 400" in next(iter(found["left_out"])) and "management policy" in next(iter(found["left_out"]))
    assert Endpoint.seen[0]["body"]["max_tokens"] == 50
    with pytest.raises(InputError, match="--max-tokens must be at least 1"):
        ask(RewardJudgeConfig((table,), endpoint, "tiny", tmp_path / "out", max_tokens=0))
