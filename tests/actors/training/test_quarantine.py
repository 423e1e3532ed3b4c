"""Quarantine of an environment that always fails; training continues with the others."""

import json
import sys

import pytest
from learner_builders import small_config

from esper_actors.rollout.pool import EnvironmentPool
from esper_actors.session import train
from esper_actors.training.local import LocalWorkerGroup
from esper_actors.training.workers import WorkerGroupError
from esper_ray.nissa.runs.observer import RunObserver
from esper_ray.nissa.runs.run_directory import RunDirectory

pytestmark = pytest.mark.integration

SETTINGS = {"system__envs": 3, "ppo__rounds": 2, "ppo__epochs": 1, "system__tries": 2}


class FailingPool(EnvironmentPool):
    """Pool in which environment 1 always fails."""

    failing = (1,)

    def play(self, assignment, *rest):
        if assignment.env in self.failing:
            raise ValueError(f"no data for environment {assignment.env}")
        return super().play(assignment, *rest)


class AllFailingPool(FailingPool):
    failing = (0, 1, 2)


class RecordingObserver(RunObserver):
    def __init__(self):
        self.faults, self.rows = [], []

    def episode_finished(self, episode):
        assert episode.env != 1

    def round_finished(self, row, timing):
        self.rows.append(row)

    def fault_occurred(self, fault):
        self.faults.append(fault)


def run(folder, workers, config):
    directory, observer = RunDirectory.create(folder, config, ["test"]), RecordingObserver()
    train(config, run=directory, workers=workers, observers=[observer])
    return directory, observer


def check(directory, observer):
    assert [row["episodes"] for row in observer.rows] == [2, 2]
    faults = [fault for fault in observer.faults if fault.kind != "environment_actor_waits"]  # on a busy machine
    assert [fault.kind for fault in faults] == ["episode_failed", "environment_quarantined"]
    assert "no data for environment 1" in faults[-1].describe()
    (event,) = [event for event in directory.events() if event["kind"] == "environment_quarantined"]
    assert (event["round"], event["env"], event["error"]) == (0, 1, "ValueError: no data for environment 1")
    logged = [json.loads(line) for line in (directory.path / "faults.jsonl").read_text().splitlines()]
    assert [fault["kind"] for fault in logged] == [fault.kind for fault in observer.faults]
    assert all(fault["round"] == 0 and fault["time"] for fault in logged)


def test_a_failing_environment_is_quarantined_in_one_process(tmp_path):
    config = small_config(**SETTINGS)
    check(*run(tmp_path, LocalWorkerGroup(config, player=FailingPool), config))


@pytest.mark.nightly
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_failing_environment_is_quarantined_on_ray(tmp_path, ray_cluster):
    from ray import cloudpickle

    from esper_actors.cluster.workers import RayWorkerGroup

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import the tests
    config = small_config(**SETTINGS, system__envs_per_actor=2)
    check(*run(tmp_path, RayWorkerGroup(config, player=FailingPool), config))


def test_a_run_without_any_environment_left_ends_with_the_last_error(tmp_path):
    config = small_config(**SETTINGS)
    with pytest.raises(WorkerGroupError, match=r"every environment is quarantined.*no data for environment"):
        run(tmp_path, LocalWorkerGroup(config, player=AllFailingPool), config)
