"""The labelling app under load: a study at a human pace, a burst, and a server that is killed again and again.

    python benchmarks/label_load.py pace --annotators 100 --seconds 60
    python benchmarks/label_load.py burst --annotators 100
    python benchmarks/label_load.py kills --annotators 20 --kills 20

Starts ``pixeval label`` on two small runs in a process of its own, with its SQLite file in a new folder (or with
``--db postgresql://...``), lets simulated browsers vote over HTTP from this process, checks the database afterwards,
and prints one JSON object. Load and server share the machine.

``pace``: everybody answers about every five seconds and loads the images of the next pairs; times are those of the
vote requests, from sending to the whole reply. ``burst``: everybody sends one vote, twice, at the same moment.
``kills``: everybody votes without a pause while the server is killed (SIGKILL) and started again; a browser sends a
vote again until it is acknowledged. Then every acknowledged vote must be there once, and nobody may miss an assignment.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from human_eval_app.accounts import enrolment_token
from human_eval_app.answers import verify
from human_eval_app.projects import list_projects
from human_eval_app.schedule import Design
from human_eval_app.store import Store
from human_eval_app.study import open_study, read_arms
from pixeval.records import Sample, sample_id
from pixeval.runs import Run

RETRY_SECONDS = 0.3
PACE_SECONDS = 5.0


def write_runs(folder: Path, prompts: int, size: int) -> list[Path]:
    """Two runs of noisy images."""
    paths = []
    for label in ("first", "second"):
        run = Run.create(folder / label, "generate", {"label": label})
        samples = []
        for i in range(prompts):
            pixels = np.random.default_rng(i).integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8)
            file = run.path / "images" / f"{i}.png"
            file.parent.mkdir(exist_ok=True)
            Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC).save(file)
            identity = sample_id(label, f"p{i}", 0)
            samples.append(Sample(identity, label, f"p{i}", f"thing number {i}", 0, label, f"images/{i}.png", "0" * 64))
        run.write_samples(samples)
        paths.append(run.path)
    return paths


class Server:
    """``pixeval label`` in a process of its own, on the same port in every life."""

    def __init__(self, folder: Path, db: str, prompts: int, size: int) -> None:
        self.runs, self.db = write_runs(folder, prompts, size), db
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """What starts it."""
        runs = [str(run) for run in self.runs]
        return [sys.executable, "-m", "pixeval", "label", *runs, "--db", self.db, "--port", str(self.port)]

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.process = subprocess.Popen(self.command(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        self.token = self.process.stdout.readline().strip().partition("#join=")[2]
        assert self.token, "the server did not start"
        for _ in range(600):
            try:
                httpx.get(f"{self.url}/api/me", timeout=5)
                return
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError("the server does not answer")

    def kill(self) -> None:
        """As a loss of power would, as far as a process can tell."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """As Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)


SERVE = """
import sys
import uvicorn
from human_eval_app.images import ImageCache
from human_eval_app.rest import create_rest, guard
from human_eval_app.store import Store
from human_eval_app.web import Server

store = Store.at(sys.argv[1])
server = Server(store, ImageCache.of(store.secret))
app = create_rest(server)
guard(app, server)
print(f"annotators: #join={sys.argv[3]}", flush=True)
uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
"""


class BareServer(Server):
    """``pixeval label`` without set-up and Gradio's page, which take most of the time to start and no part in votes."""

    def __init__(self, folder: Path, db: str, prompts: int, size: int) -> None:
        super().__init__(folder, db, prompts, size)
        store = Store.at(db)
        self.enrolment = enrolment_token(store.secret, open_study(store, read_arms(self.runs), Design()))
        store.close()

    def command(self) -> list[str]:
        """What starts it."""
        return [sys.executable, "-c", SERVE, self.db, str(self.port), self.enrolment]


@dataclass
class Browser:
    """One annotator's browser."""

    url: str
    name: str
    client: httpx.AsyncClient
    project: str = ""
    state: dict[str, Any] = field(default_factory=dict)
    shown: set[str] = field(default_factory=set)
    """Assignments that it was given."""
    acknowledged: dict[tuple[str, int], str] = field(default_factory=dict)
    """Choice by assignment and revision, of votes that the server said are stored."""
    loaded: set[str] = field(default_factory=set)
    milliseconds: list[float] = field(default_factory=list)

    async def join(self, token: str) -> None:
        """Use the open invitation and read the introduction."""
        me = (await self.call("/api/join", {"token": token, "name": self.name})).json()
        self.client.headers["X-CSRF-Token"] = me["csrf"]
        self.project = me["projects"][0]["id"]
        self.take(await self.call(f"/api/project/{self.project}/begin", {}))

    async def call(self, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        """One request, until it is answered."""
        while True:
            try:
                response = await (self.client.get(path) if body is None else self.client.post(path, json=body))
            except httpx.TransportError:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if response.status_code == 429:
                await asyncio.sleep(float(response.headers["Retry-After"]))
                continue
            response.raise_for_status()
            return response

    def take(self, response: httpx.Response) -> None:
        """Go on from a reply."""
        self.state = response.json()
        self.shown.update(item["assignment"] for item in self.state["queue"])

    def ballot(self) -> dict[str, Any]:
        """An answer to the first pair of the queue."""
        item = self.state["queue"][0]
        choice = random.choice(("left", "tie", "right"))
        return {"assignment": item["assignment"], "revision": item["revision"], "choice": choice, "seconds": 1.5}

    async def vote(self, ballot: dict[str, Any]) -> None:
        """Send an answer until it is acknowledged."""
        started = time.perf_counter()
        response = await self.call(f"/api/project/{self.project}/vote", ballot)
        self.milliseconds.append(1000 * (time.perf_counter() - started))
        self.take(response)
        self.acknowledged.setdefault((ballot["assignment"], ballot["revision"]), ballot["choice"])

    async def load_images(self) -> None:
        """The images of the queue that are not there yet."""
        for item in self.state["queue"]:
            for side in ("left", "right"):
                if item[side]["key"] not in self.loaded:
                    self.loaded.add(item[side]["key"])
                    await self.call(f"/api/image/{item[side]['key']}")


async def browsers(server: Server, count: int) -> list[Browser]:
    """Annotators who have joined."""
    limits = httpx.Limits(max_connections=2)
    made = [
        Browser(server.url, f"person {i}", httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits))
        for i in range(count)
    ]
    for browser in made:
        await browser.join(server.token)
    return made


async def close(people: list[Browser]) -> None:
    """Close all connections."""
    await asyncio.gather(*(person.client.aclose() for person in people))


def check(server: Server, people: list[Browser]) -> dict[str, Any]:
    """What the database holds of what was acknowledged."""
    store = Store.at(server.db)
    try:
        votes = store.votes()
        with store.read() as connection:
            broken = verify(connection, store.secret, list_projects(connection)[0].id)
    finally:
        store.close()
    by_name = Counter(vote.annotator for vote in votes)
    once = len({vote.id for vote in votes}) == len(votes)
    acknowledged = sum(len(person.acknowledged) for person in people)
    missing = sum(max(0, len(p.acknowledged) - by_name[p.name]) for p in people)
    choices = Counter((vote.annotator, vote.choice) for vote in votes)
    expected = Counter((p.name, choice) for p in people for choice in p.acknowledged.values())
    return {
        "votes": len(votes),
        "acknowledged": acknowledged,
        "acknowledged_but_missing": missing,
        "stored_twice": len(votes) - acknowledged if once else None,
        "same_choices": choices == expected,
        "chain_holds": broken is None,
    }


async def pace(server: Server, count: int, seconds: float) -> dict[str, Any]:
    """Votes at a human pace."""
    people = await browsers(server, count)
    for person in people:
        await person.load_images()
    end = time.monotonic() + seconds

    async def work(person: Browser) -> None:
        await asyncio.sleep(random.uniform(0, PACE_SECONDS))
        while time.monotonic() < end and person.state["queue"]:
            await person.vote(person.ballot())
            await person.load_images()
            await asyncio.sleep(max(0.3, random.gauss(PACE_SECONDS, PACE_SECONDS / 3)))

    await asyncio.gather(*(work(person) for person in people))
    times = sorted(t for person in people for t in person.milliseconds)
    await close(people)
    cuts = statistics.quantiles(times, n=100)
    figures = {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "max": times[-1]}
    return {"milliseconds": {name: round(value, 1) for name, value in figures.items()}, **check(server, people)}


async def burst(server: Server, count: int) -> dict[str, Any]:
    """Everybody's vote at once, each sent twice."""
    people = await browsers(server, count)
    ballots = [person.ballot() for person in people]
    started = time.perf_counter()
    both = [p.vote(ballot) for _ in range(2) for p, ballot in zip(people, ballots, strict=True)]
    await asyncio.gather(*both)
    seconds = time.perf_counter() - started
    await close(people)
    return {"seconds": round(seconds, 2), **check(server, people)}


async def killing(server: Server, count: int, kills: int, between: tuple[float, float]) -> dict[str, Any]:
    """Votes without a pause while the server is killed; then everybody finishes."""
    people = await browsers(server, count)

    async def work(person: Browser) -> None:
        while person.state["queue"]:
            await person.vote(person.ballot())

    working = [asyncio.create_task(work(person)) for person in people]
    down = []
    for _ in range(kills):
        await asyncio.sleep(random.uniform(*between))
        server.kill()
        started = time.perf_counter()
        await asyncio.to_thread(server.start)
        down.append(time.perf_counter() - started)
    running = sum(not task.done() for task in working)
    await asyncio.gather(*working)
    lost = sum(len(p.shown - {assignment for assignment, _ in p.acknowledged}) for p in people)
    unfinished = sum(p.state["phase"] != "finished" or p.state["done"] != p.state["total"] for p in people)
    await close(people)
    figures = {"kills": kills, "voting_at_the_last_kill": running, "seconds_to_start": round(statistics.mean(down), 1)}
    return {**figures, "assignments_lost": lost, "unfinished_annotators": unfinished, **check(server, people)}


def main() -> None:
    """Run one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pace", "burst", "kills"))
    parser.add_argument("--annotators", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--db", default=None)
    parser.add_argument("--bare", action="store_true", help="without set-up and page, which makes it start sooner")
    config = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["PIXEVAL_CACHE"] = str(folder / "cache")
        kind = BareServer if config.bare else Server
        server = kind(folder, config.db or str(folder / "votes.sqlite3"), config.prompts, config.size)
        server.start()
        try:
            if config.what == "pace":
                result = asyncio.run(pace(server, config.annotators, config.seconds))
            elif config.what == "burst":
                result = asyncio.run(burst(server, config.annotators))
            else:
                result = asyncio.run(killing(server, config.annotators, config.kills, (0.5, 2.0)))
        finally:
            server.stop()
    database = "postgresql" if config.db else "sqlite"
    about = {"what": config.what, "annotators": config.annotators, "database": database, "bare": config.bare}
    print(json.dumps({**about, **result}, indent=2))


if __name__ == "__main__":
    main()
