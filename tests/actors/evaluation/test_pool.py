"""Evaluator pools: equal scores in one process and on Ray, order, interruption and errors."""

import pytest
from run_builders import placed

from esper_actors.evaluation.candidates import SCRATCH, WIDE, Candidate
from esper_actors.evaluation.evaluator import Evaluator
from esper_actors.evaluation.pool import (
    EvaluationTask,
    LocalEvaluatorPool,
    all_scores,
)
from esper_actors.factory import make_evaluators
from esper_actors.rollout.runner import Interrupted
from esper_actors.training.workers import WorkerGroupError
from esper_ray.leyline.config.loading import build, read_preset

pytestmark = pytest.mark.integration

CANDIDATES = {name: Candidate(name, baseline=name) for name in ("static", "random")}
SEEDS = (5, 9)


def never():
    return False


@pytest.fixture(scope="module")
def config():
    settings = {
        "episode_length": 6,
        "training.steps_per_epoch": 1,
        "training.batch_size": 16,
        "task.validation_size": 50,
        "task.test_size": 50,
    }
    return build(read_preset("digits"), settings)


@pytest.fixture(scope="module")
def serial(config):
    with LocalEvaluatorPool(config, CANDIDATES, greedy=True) as pool:
        yield pool


class ReversingPool:
    """Pool that records its tasks and returns the results in reverse order."""

    def __init__(self, pool):
        self.pool, self.tasks = pool, []

    def play(self, tasks, should_stop):
        self.tasks.append([(task.label, task.seed) for task in tasks])
        return reversed(list(self.pool.play(tasks, should_stop)))


def scores_of(pool, controls=(WIDE, SCRATCH), reference="random", on_score=lambda score: None, stop=never):
    return all_scores(pool, list(CANDIDATES), controls, reference, SEEDS, on_score, stop)


def test_scores_are_ordered_by_candidate_and_seed_whatever_the_order_of_play(serial):
    reversing, received = ReversingPool(serial), []
    scores = scores_of(reversing, on_score=received.append)
    order = [(label, seed) for label in ("static", "random", WIDE, SCRATCH) for seed in SEEDS]
    assert [(score.policy, score.seed) for score in scores] == order
    assert sorted((s.policy, s.seed) for s in received) == sorted(order)
    assert reversing.tasks[0] == [("random", 5), ("random", 9), ("static", 5), ("static", 9)]
    assert reversing.tasks[1] == [(WIDE, 5), (WIDE, 9), (SCRATCH, 5), (SCRATCH, 9)]
    assert scores == scores_of(serial)


def test_controls_follow_the_final_network_of_the_reference_on_the_same_seed(serial, config):
    scores = {(score.policy, score.seed): score for score in scores_of(serial)}
    for seed in SEEDS:
        grown, copy = scores["random", seed], scores[SCRATCH, seed]
        assert (copy.parameters, copy.seeds_grown) == (grown.parameters, grown.seeds_grown)
        assert scores[WIDE, seed].parameters >= grown.parameters
    assert len({scores["random", seed].parameters for seed in SEEDS}) == 2
    static = {(score.policy, score.seed): score for score in scores_of(serial, reference="static")}
    for seed in SEEDS:
        assert {static[label, seed].parameters for label in ("static", WIDE, SCRATCH)} == {160}


def test_without_controls_only_the_candidates_are_played(serial):
    reversing = ReversingPool(serial)
    assert len(scores_of(reversing, controls=())) == 4
    assert reversing.tasks[1] == []


def test_scores_equal_those_of_a_single_evaluator(serial, config):
    score = Evaluator(config).play(CANDIDATES["random"], 9).score
    assert scores_of(serial, controls=())[-1] == score


def test_a_stop_request_keeps_the_scores_received_so_far(serial):
    received = []
    with pytest.raises(Interrupted):
        scores_of(serial, on_score=received.append, stop=lambda: len(received) == 3)
    assert [(score.policy, score.seed) for score in received] == [("random", 5), ("random", 9), ("static", 5)]


def test_the_configuration_selects_the_kind_of_pool(config, serial):
    assert serial.describe() == "one process on cpu"
    local = make_evaluators(placed(config, "local"), CANDIDATES, greedy=True, workers=None)
    assert isinstance(local, LocalEvaluatorPool)
    from esper_actors.evaluation.actor import RayEvaluatorPool

    assert isinstance(make_evaluators(config, CANDIDATES, greedy=True, workers=2), RayEvaluatorPool)


@pytest.fixture(scope="module")
def on_ray(config, ray_cluster):
    with make_evaluators(config, CANDIDATES, greedy=True, workers=None) as pool:
        yield pool


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(240)
class TestRay:
    """Pool on one cluster of two CPUs."""

    @pytest.mark.nightly
    def test_ray_and_the_local_pool_give_the_same_scores(self, on_ray, serial):
        assert on_ray.describe() == "Ray actors: 2 on cpu"
        received = []
        assert scores_of(on_ray, on_score=received.append) == scores_of(serial)
        assert len(received) == 8

    @pytest.mark.nightly
    def test_a_pool_works_again_after_a_stop_request(self, on_ray, serial):
        with pytest.raises(Interrupted):
            scores_of(on_ray, stop=lambda: True)
        task = EvaluationTask("static", 5)
        assert list(on_ray.play([task], never)) == list(serial.play([task], never))
        assert list(on_ray.play([], never)) == []

    @pytest.mark.nightly
    def test_a_killed_actor_is_replaced_and_its_episode_repeated(self, on_ray, serial):
        import ray

        received = []

        def kill_once(score):
            if not received:
                for actor in on_ray._actors:
                    ray.kill(actor)
            received.append(score)

        assert scores_of(on_ray, on_score=kill_once) == scores_of(serial)
        assert len(received) == 8

    @pytest.mark.nightly
    def test_an_actor_that_is_lost_every_time_ends_the_evaluation(self, on_ray, monkeypatch):
        import ray
        from ray.exceptions import OutOfMemoryError

        def lost(reference):
            raise OutOfMemoryError("Memory on the node was 0.97 of its size.")

        monkeypatch.setattr(ray, "get", lost)
        message = "static, seed 5: the evaluation actor was lost 3 times: OutOfMemoryError: Memory on .*; use fewer"
        with pytest.raises(WorkerGroupError, match=message):
            list(on_ray.play([EvaluationTask("static", 5)], never))

    @pytest.mark.nightly
    def test_an_error_of_an_evaluator_is_raised_with_its_message(self, on_ray):
        with pytest.raises(ValueError, match="unknown control 'tall-host'"):
            list(on_ray.play([EvaluationTask("tall-host", 0, after=object())], never))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("devices", "workers", "message"),
    [
        (("cpu",), 30, r"needs 30 CPU \(30 actors\), the cluster has 2"),
        (("cuda:0", "cuda:1"), None, r"needs 2 GPU \(cuda:0, cuda:1\), the cluster has 0"),
        (("cpu",) * 3, 1, r"needs 3 CPU \(3 actors\), the cluster has 2"),
    ],
)
def test_resources_that_the_cluster_lacks_are_refused_with_the_arithmetic(config, devices, workers, message):
    from esper_actors.cluster.placement import ResourceError

    system = config.system.model_copy(update={"devices": devices})
    from esper_actors.evaluation.actor import RayEvaluatorPool

    pool = RayEvaluatorPool(config.model_copy(update={"system": system}), CANDIDATES, greedy=True, workers=workers)
    with pytest.raises(ResourceError, match=message), pool:
        pass
