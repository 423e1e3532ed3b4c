"""The rule of ``conftest.py`` that a test over ten seconds needs the marker ``slow``."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

CORES = os.cpu_count() or 1


@pytest.fixture
def rule(request):
    """The module ``conftest.py`` of all tests."""
    return request.config.pluginmanager.get_plugin(str(Path(__file__).with_name("conftest.py")))


def reported(rule, *, cpu=1.0, clock=1.0, load=0.0, when="call", outcome="passed", keywords=(), worker=None):
    """The report of a test that has used ``cpu`` seconds since second 100 of its process, and the stash after it."""
    stash = {rule.CPU_AT_START: 100.0}
    item = SimpleNamespace(config=SimpleNamespace(stash=stash), keywords=set(keywords))
    wrapper = rule.pytest_runtest_makereport(item, SimpleNamespace(when=when, duration=clock))
    next(wrapper)
    with pytest.MonkeyPatch.context() as patch:  # only here: the rule measures this test, too
        patch.setattr(rule, "used_cpu", lambda: 100.0 + cpu)
        patch.setattr(os, "getloadavg", lambda: (load, load, load))
        patch.delenv("PYTEST_XDIST_WORKER", raising=False)
        if worker is not None:
            patch.setenv("PYTEST_XDIST_WORKER", worker)
        with pytest.raises(StopIteration) as end:
            wrapper.send(SimpleNamespace(passed=outcome == "passed", outcome=outcome, longrepr=None))
    return end.value.value, stash[rule.CPU_AT_START]


@pytest.mark.parametrize(
    "case",
    [
        {"cpu": 10.5},
        {"clock": 10.5},
        {"cpu": 10.5, "when": "setup"},
        {"cpu": 10.5, "load": 9.0 * CORES},  # the load excuses the clock, not the CPU time
        {"clock": 20.5, "load": 2.0 * CORES},
        {"clock": 30.5, "load": 9.0 * CORES},
    ],
    ids=str,
)
def test_a_test_over_ten_seconds_without_the_marker_slow_fails(rule, case):
    report, _ = reported(rule, **case)
    assert report.outcome == "failed"
    assert "a test over 10 s needs the marker `slow`" in report.longrepr


@pytest.mark.parametrize(
    "case",
    [
        {"cpu": 9.5, "clock": 9.5},
        {"cpu": 60.0, "clock": 60.0, "keywords": ["slow"]},
        {"cpu": 60.0, "when": "teardown"},
        {"clock": 19.5, "load": 2.0 * CORES},
        {"clock": 29.5, "load": 9.0 * CORES},
        {"cpu": 24.5, "clock": 24.5, "worker": "gw0"},
    ],
    ids=str,
)
def test_a_test_within_ten_seconds_or_marked_slow_passes(rule, case):
    report, _ = reported(rule, **case)
    assert (report.outcome, report.longrepr) == ("passed", None)


def test_a_failed_test_keeps_its_own_report(rule):
    report, _ = reported(rule, cpu=60.0, outcome="failed")
    assert report.longrepr is None


def test_the_next_test_is_measured_from_the_end_of_this_one(rule):
    assert reported(rule, cpu=4.0)[1] == 104.0


def test_a_test_beside_other_processes_fails_at_two_and_a_half_times_as_much(rule):
    report, _ = reported(rule, cpu=25.5, worker="gw0")
    assert report.outcome == "failed"
    assert "a test over 25 s needs the marker `slow`" in report.longrepr
