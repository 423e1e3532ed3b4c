"""The recorded run that is served."""

import pytest

pytest.importorskip("sse_starlette", reason="the extra karn is not installed")

from overwatch_builders import live_run, served


@pytest.fixture(scope="session")
def recorded(tmp_path_factory):
    """A folder with a run in its fourth round. No test changes it."""
    folder = tmp_path_factory.mktemp("recorded") / "runs"
    live_run(folder)
    return folder


@pytest.fixture
def client(recorded):
    """A client of a server over that folder."""
    with served(recorded) as client:
        yield client
