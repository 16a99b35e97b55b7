"""Settings of all tests."""

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of other tests, or of the user, must not be found; commands started by a test inherit this."""
    monkeypatch.setenv("PIXEVAL_CACHE", str(tmp_path_factory.mktemp("cache")))
