"""Runs with killed processes: results equal those of a run without kills."""

import pytest
from driver import SETTINGS
from scenarios import ACTORS, EACH, disturbed_run, reference_run

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]

INTERVAL = SETTINGS["system.snapshot_every"]
ENVIRONMENT_ACTORS = 2


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return reference_run(tmp_path_factory.mktemp("reference"))


@pytest.fixture(scope="module")
def short_reference(tmp_path_factory):
    return reference_run(tmp_path_factory.mktemp("short"), rounds=6)


@pytest.mark.nightly
def test_one_kill_of_each_kind_and_a_lost_node_change_nothing(short_reference, tmp_path):
    outcome, different = disturbed_run(tmp_path, EACH, short_reference, nodes=2, rounds=6)
    assert sorted(outcome.kills) == sorted(EACH)
    assert different == []
    assert 0 < outcome.repeated <= INTERVAL * ENVIRONMENT_ACTORS * len(EACH)


@pytest.mark.nightly
def test_twenty_kills_of_actors_and_driver_change_nothing(reference, tmp_path):
    outcome, different = disturbed_run(tmp_path, ACTORS, reference)
    assert sorted(outcome.kills) == sorted(kind for kind, count in ACTORS.items() for _ in range(count))
    assert different == []
    limit = INTERVAL * (ACTORS["environment"] + ENVIRONMENT_ACTORS * ACTORS["driver"])
    assert 0 < outcome.repeated <= limit
    assert {kind for kind, seconds in outcome.recoveries.items() if seconds} == set(ACTORS)


@pytest.mark.nightly
def test_the_loss_of_a_node_changes_nothing(reference, tmp_path):
    outcome, different = disturbed_run(tmp_path, {"node": 1}, reference, nodes=2)
    assert outcome.kills == ["node"]
    assert different == []
    assert outcome.repeated <= INTERVAL * ENVIRONMENT_ACTORS
