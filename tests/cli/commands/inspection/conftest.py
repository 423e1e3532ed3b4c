"""SQL without a process of its own, for tests of answers."""

import pytest

from esper_ray.cli.jobs import query


@pytest.fixture
def asked_here(monkeypatch):
    """``esper sql`` asks in this process: starting another takes longer than a query."""

    def ask(request, timeout_s):
        query.print_result(request)
        return 0

    monkeypatch.setattr(query, "ask_in_process", ask)
