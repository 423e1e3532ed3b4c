"""Whoever is killed, the results are those of a run that nobody disturbed."""

import pytest
from driver import SETTINGS
from scenarios import ACTORS, EACH, disturbed_run, quiet_run

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]

INTERVAL = SETTINGS["system.snapshot_every"]
ACTORS_AT_WORK = 2


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    return quiet_run(tmp_path_factory.mktemp("quiet"))


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    return quiet_run(tmp_path_factory.mktemp("short"), rounds=6)


def test_one_kill_of_each_kind_and_a_lost_node_change_nothing(short, tmp_path):
    outcome, different = disturbed_run(tmp_path, EACH, short, nodes=2, rounds=6)
    assert sorted(outcome.kills) == sorted(EACH)
    assert different == []
    assert 0 < outcome.repeated <= INTERVAL * ACTORS_AT_WORK * len(EACH)


@pytest.mark.nightly
def test_twenty_kills_of_actors_and_driver_change_nothing(quiet, tmp_path):
    outcome, different = disturbed_run(tmp_path, ACTORS, quiet)
    assert sorted(outcome.kills) == sorted(kind for kind, count in ACTORS.items() for _ in range(count))
    assert different == []
    most = INTERVAL * (ACTORS["environment"] + ACTORS_AT_WORK * ACTORS["driver"])
    assert 0 < outcome.repeated <= most
    assert {kind for kind, seconds in outcome.recoveries.items() if seconds} == set(ACTORS)


@pytest.mark.nightly
def test_the_loss_of_a_node_changes_nothing(quiet, tmp_path):
    outcome, different = disturbed_run(tmp_path, {"node": 1}, quiet, nodes=2)
    assert outcome.kills == ["node"]
    assert different == []
    assert outcome.repeated <= INTERVAL * ACTORS_AT_WORK
