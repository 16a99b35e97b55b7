"""The labelling app in a process of its own, as a user runs it, for the browser's tests."""

import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import httpx
from label_study import make_run

from human_eval_app.projects import State, list_projects, set_state
from human_eval_app.schedule import Design, match_samples
from human_eval_app.store import Store
from human_eval_app.study import Arms, open_study, pairs_of, read_arms
from pixeval.records import Prompt, Vote, current_votes

HOSTILE = "<img src=x onerror=window.hacked=1> a thing"
CHECKS = ("Is there a square?", "Is it <b>bold</b>?")
PAIRS = 12
_SERVE = """
import sys
from human_eval_app.serve import LabelConfig, label
label(LabelConfig(db=sys.argv[1], port=int(sys.argv[2])))
"""


class LabelApp:
    """Two studies of the same images in one database: ``study`` with a practice pair, ``second`` of one question."""

    def __init__(self, folder: Path) -> None:
        self.database = folder / "votes.sqlite3"
        arms = self._arms(folder)
        matchups = match_samples(arms.groups)
        taught = next(m for m in matchups if m.prompt_id == "p0")
        [pair] = pairs_of(arms, [taught], ("flaws",))
        known = replace(pair, purpose="training", known={"flaws": "a"}, why={"flaws": "The other one is <i>pale</i>."})
        judged = {label: [s for s in group if s.prompt_id != "p0"] for label, group in arms.groups.items()}
        design = Design(repeats=0.0, gold=0.0)
        store = Store.at(str(self.database))
        try:
            rest = replace(arms, groups=judged)
            open_study(store, rest, design, title="A study <b>of things</b>", known=[known])
            open_study(store, rest, replace(design, questions=("alignment",)), "second", "Another study")
        finally:
            store.close()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.links: dict[str, str] = {}
        self.start()

    @staticmethod
    def _arms(folder: Path) -> Arms:
        paths = []
        for name, label, level in (("secretfolder-a", "basemodel", 0.1), ("secretfolder-b", "tunedmodel", 0.9)):
            run = make_run(folder / name, label, PAIRS + 1, level)
            run.write_samples([replace(s, prompt=f"{HOSTILE} {s.prompt_id}") for s in run.samples()])
            run.add_prompts([Prompt(f"p{i}", f"{HOSTILE} p{i}", questions=CHECKS) for i in range(PAIRS + 1)])
            paths.append(run.path)
        return read_arms(paths)

    def start(self) -> None:
        """Start the server, learn its links and wait until it answers."""
        arguments = [sys.executable, "-c", _SERVE, str(self.database), str(self.port)]
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            name, _, link = line.strip().rpartition(": ")
            self.links[name] = link
            if name == "lead":
                break
        for _ in range(240):
            try:
                if httpx.get(self.url, timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert self.process.poll() is None, "the app ended"
            time.sleep(0.1)
        raise AssertionError("the app did not answer")

    def stop(self, how: int = signal.SIGINT) -> int:
        """Send a signal; the exit code."""
        self.process.send_signal(how)
        return self.process.wait(20)

    def link(self, study: str = "study") -> str:
        """The open invitation to a study."""
        return self.links[f"annotators of {study}"]

    def enter(self, name: str, study: str = "study", password: str | None = None) -> str:
        """Join, read the introduction and answer what there is to practise; the session's cookie."""
        with httpx.Client(base_url=self.url) as client:
            body = {"token": self.link(study).rpartition("=")[2], "name": name}
            me = client.post("/api/join", json=body | ({"password": password} if password else {})).json()
            client.headers["X-CSRF-Token"] = me["csrf"]
            [project] = me["projects"]
            state = client.post(f"/api/project/{project['id']}/begin").json()
            while state["phase"] == "training":
                item = state["queue"][0]
                vote = {"assignment": item["assignment"], "revision": item["revision"], "choice": "tie", "seconds": 1}
                state = client.post(f"/api/project/{project['id']}/vote", json=vote).json()
            return client.cookies["pixeval_session"]

    def votes(self, annotator: str) -> list[Vote]:
        """Votes of this person that stand, training aside, in the order they were given."""
        store = Store.at(str(self.database))
        try:
            votes = current_votes(store.votes())
        finally:
            store.close()
        return [vote for vote in votes if vote.annotator == annotator and vote.purpose == "work"]

    def set_state(self, state: State) -> None:
        """Pause the first study, or open it again."""
        store = Store.at(str(self.database))
        try:
            with store.write() as connection:
                study = next(p for p in list_projects(connection) if p.name == "study")
                set_state(connection, study.id, state)
        finally:
            store.close()
