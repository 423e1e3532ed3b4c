"""Schedulers of sweeps: halving, populations, and resources of trials."""

from types import SimpleNamespace

import pytest

from esper_actors.cluster.placement import ResourceError
from esper_actors.sweep.resources import bundles, check_fits, check_places
from esper_actors.sweep.schedulers import Halving, Populations
from esper_actors.sweep.trial import METRIC, TIME
from esper_ray.leyline.config.loading import build
from esper_ray.leyline.config.sweep import HalvingConfig

HALVES = HalvingConfig(grace_rounds=2, reduction=2.0)


class FakeTrial:
    """The part of Tune's trial that the schedulers read."""

    def __init__(self, name):
        self.name = name

    def __str__(self):
        return self.name


def report(scheduler, name, round_index, value):
    return scheduler.on_trial_result(None, FakeTrial(name), {TIME: round_index, METRIC: value})


def halving(earlier_results=None, rounds=8):
    scheduler = Halving(HALVES, rounds, earlier_results or {})
    for name in "abcd":
        scheduler.on_trial_add(None, FakeTrial(name))
    return scheduler


class TestHalving:
    """Milestones at rounds 2 and 4; a trial below the median of the earlier ones is stopped."""

    def test_a_trial_below_the_median_at_a_milestone_is_stopped(self):
        scheduler = halving()
        assert [report(scheduler, "a", r, 10.0) for r in (1, 2)] == ["CONTINUE", "CONTINUE"]
        assert [report(scheduler, "b", r, 5.0) for r in (1, 2)] == ["CONTINUE", "STOP"]
        assert [report(scheduler, "c", r, 20.0) for r in (1, 2, 3)] == ["CONTINUE"] * 3

    def test_results_from_before_a_restart_count(self):
        """As above, but a and b reported in another process."""
        scheduler = halving({"a": [10.0, 10.0], "b": [5.0, 5.0]})
        assert report(scheduler, "c", 2, 7.0) == "STOP"  # median of 10 and 5 is 7.5
        assert report(halving({"a": [10.0, 10.0], "b": [5.0, 5.0]}), "c", 2, 8.0) == "CONTINUE"

    def test_a_trial_past_a_milestone_is_judged_at_the_next_one(self):
        scheduler = halving({"b": [5.0, 5.0, 5.0], "a": [10.0, 10.0]})
        assert report(scheduler, "b", 3, 5.0) == "CONTINUE"
        assert report(scheduler, "a", 4, 10.0) == "CONTINUE"
        assert report(scheduler, "b", 4, 5.0) == "STOP"  # at the next milestone

    def test_the_last_round_is_never_stopped(self):
        scheduler = halving({"a": [10.0] * 8})
        assert report(scheduler, "b", 8, 0.0) == "CONTINUE"

    def test_the_default_grace_is_a_quarter_of_the_rounds(self):
        scheduler = Halving(HalvingConfig(reduction=2.0), 12, {"a": [9.0] * 3})
        scheduler.on_trial_add(None, FakeTrial("b"))
        assert [report(scheduler, "b", r, 1.0) for r in (1, 2, 3)] == ["CONTINUE", "CONTINUE", "STOP"]


class RecordingScheduler:
    """Scheduler of one population that records its calls."""

    def __init__(self):
        self.calls = []

    def on_trial_add(self, controller, trial):
        self.calls.append(("add", str(trial)))

    def on_trial_result(self, controller, trial, result):
        self.calls.append(("result", str(trial), [str(t) for t in controller.get_trials()], controller.answer))
        return "PAUSE"

    def choose_trial_to_run(self, controller):
        waiting = [trial for trial in controller.get_live_trials() if trial.name.endswith("2")]
        return waiting[0] if waiting else None


def test_each_reward_mode_is_its_own_population():
    trials = [FakeTrial(name) for name in ("basic1", "sparse1", "sparse2")]
    controller = SimpleNamespace(get_trials=lambda: trials, get_live_trials=lambda: trials, answer=42)
    schedulers = []
    scheduler = Populations(
        lambda: schedulers.append(RecordingScheduler()) or schedulers[-1], lambda trial: trial.name[:-1], rounds=4
    )
    for trial in trials:
        scheduler.on_trial_add(controller, trial)
    assert scheduler.on_trial_result(controller, trials[1], {TIME: 2, METRIC: 0.0}) == "PAUSE"
    basic, sparse = schedulers
    assert basic.calls == [("add", "basic1")]
    assert sparse.calls[-1] == ("result", "sparse1", ["sparse1", "sparse2"], 42)
    assert scheduler.choose_trial_to_run(controller) is trials[2]
    assert scheduler.on_trial_result(controller, trials[1], {TIME: 4, METRIC: 0.0}) == "CONTINUE"  # it is finished
    assert len(sparse.calls) == 3


class TestResources:
    """Bundles that a trial requests; a trial beyond the cluster is refused."""

    def config(self, tiny_config, **system):
        return build(tiny_config.model_dump(mode="json"), {f"system.{key}": value for key, value in system.items()})

    def test_each_environment_actor_needs_a_cpu(self, tiny_config):
        assert bundles(tiny_config) == [{}, {"CPU": 1.0}, {"CPU": 1.0}]  # three environments, two to an actor

    def test_actors_of_a_gpu_are_one_bundle(self, tiny_config):
        config = self.config(tiny_config, envs=2, envs_per_actor=1, device="cuda:0", devices=["cuda:0"])
        assert bundles(config) == [{}, {"CPU": 2.0, "GPU": 1.0}]
        config = self.config(tiny_config, envs=2, envs_per_actor=1, device="cpu", devices=["cuda:0", "cuda:1"])
        assert bundles(config) == [{}, {"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 1.0}]

    def test_a_share_of_a_gpu_lets_several_trials_use_it(self, tiny_config):
        shares = {"envs": 1, "envs_per_actor": 1, "device": "cpu", "devices": ["cuda:0"], "gpus_per_actor": 0.25}
        assert bundles(self.config(tiny_config, **shares)) == [{}, {"CPU": 1.0, "GPU": 0.25}]

    def test_trials_beyond_the_cluster_are_refused_with_the_arithmetic(self):
        requests = {"a": [{}, {"CPU": 1.0}], "b": [{}, {"CPU": 1.0}, {"CPU": 2.0, "GPU": 0.5}]}
        check_fits(requests, 1, {"CPU": 3, "GPU": 1})
        check_fits(requests, 2, {"CPU": 4, "GPU": 0.5})
        with pytest.raises(ResourceError, match=r"^trial b needs 3 CPU, the cluster has 2$"):
            check_fits(requests, 0, {"CPU": 2, "GPU": 1})
        with pytest.raises(ResourceError, match=r"^2 trials at a time need 3 \+ 1 = 4 CPU, the cluster has 3$"):
            check_fits(requests, 2, {"CPU": 3, "GPU": 1})
        with pytest.raises(ResourceError, match=r"^trial b needs 0.5 GPU, the cluster has 0$"):
            check_fits(requests, 1, {"CPU": 8})

    def test_a_trial_that_fits_the_cluster_but_no_node_is_refused(self, tiny_config):
        shares = {"envs": 2, "envs_per_actor": 1, "device": "cuda:0", "devices": ["cuda:0"]}
        configs = {"a": tiny_config, "b": self.config(tiny_config, **shares)}
        node = {"CPU": 2.0, "GPU": 1.0}
        check_places(configs, [node])
        nodes = [{"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0}]
        check_fits({name: bundles(config) for name, config in configs.items()}, 1, {"CPU": 2, "GPU": 1})
        with pytest.raises(
            ResourceError, match=r"^trial b: the run needs .*2 CPU \+ 1 GPU on one node; the cluster has"
        ):
            check_places(configs, nodes)
