"""The labelling app as a process under load: a burst is stored once, a killed server loses no acknowledged vote.

The benchmark ``benchmarks/label_load.py`` does the same at full size; its parts are used here.
"""

import asyncio
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def load() -> ModuleType:
    """The benchmark as a module."""
    file = Path(__file__).parent.parent / "benchmarks" / "label_load.py"
    spec = importlib.util.spec_from_file_location("label_load", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules["label_load"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def server(load: ModuleType, database: str, tmp_path: Path) -> Iterator[object]:
    server = load.BareServer(tmp_path, database, prompts=6, size=64)
    server.start()
    yield server
    if server.process.poll() is None:
        server.stop()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_two_kills_lose_and_repeat_no_vote(load: ModuleType, server: object) -> None:
    found = asyncio.run(load.killing(server, count=8, kills=2, between=(0.15, 0.3)))
    assert found["voting_at_the_last_kill"] > 0, "the server was killed after the last vote"
    assert found["votes"] == found["acknowledged"] == 8 * 19
    assert (found["acknowledged_but_missing"], found["stored_twice"], found["assignments_lost"]) == (0, 0, 0)
    assert found["unfinished_annotators"] == 0 and found["same_choices"] and found["chain_holds"]


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_burst_is_stored_exactly_once(load: ModuleType, server: object) -> None:
    found = asyncio.run(load.burst(server, 30))
    assert found["votes"] == found["acknowledged"] == 30
    assert found["stored_twice"] == 0 and found["same_choices"] and found["chain_holds"]
