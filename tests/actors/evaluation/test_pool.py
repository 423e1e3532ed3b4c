"""Who plays an evaluation does not matter; its order, its interruption and its errors."""

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
from esper_ray.leyline.config.loading import build, read_preset

pytestmark = pytest.mark.integration

CONTESTANTS = {name: Candidate(name, baseline=name) for name in ("static", "random")}
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
    with LocalEvaluatorPool(config, CONTESTANTS, greedy=True) as players:
        yield players


class Recorded:
    """Plays nothing new: notes the order of jobs, and gives verdicts back in reverse."""

    def __init__(self, players):
        self.players, self.asked = players, []

    def play(self, jobs, should_stop):
        self.asked.append([(job.label, job.seed) for job in jobs])
        return reversed(list(self.players.play(jobs, should_stop)))


def scores_of(players, controls=(WIDE, SCRATCH), reference="random", on_score=lambda score: None, stop=never):
    return all_scores(players, list(CONTESTANTS), controls, reference, SEEDS, on_score, stop)


def test_scores_come_by_contestant_and_seed_however_they_were_played(serial):
    recorded, heard = Recorded(serial), []
    scores = scores_of(recorded, on_score=heard.append)
    order = [(label, seed) for label in ("static", "random", WIDE, SCRATCH) for seed in SEEDS]
    assert [(score.policy, score.seed) for score in scores] == order
    assert sorted((s.policy, s.seed) for s in heard) == sorted(order)
    assert recorded.asked[0] == [("random", 5), ("random", 9), ("static", 5), ("static", 9)]
    assert recorded.asked[1] == [(WIDE, 5), (WIDE, 9), (SCRATCH, 5), (SCRATCH, 9)]
    assert scores == scores_of(serial)


def test_controls_are_made_after_the_final_network_of_the_reference_on_the_same_seed(serial, config):
    scores = {(score.policy, score.seed): score for score in scores_of(serial)}
    for seed in SEEDS:
        grown, copy = scores["random", seed], scores[SCRATCH, seed]
        assert (copy.parameters, copy.seeds_grown) == (grown.parameters, grown.seeds_grown)
        assert scores[WIDE, seed].parameters >= grown.parameters
    assert len({scores["random", seed].parameters for seed in SEEDS}) == 2
    static = {(score.policy, score.seed): score for score in scores_of(serial, reference="static")}
    for seed in SEEDS:
        assert {static[label, seed].parameters for label in ("static", WIDE, SCRATCH)} == {160}


def test_without_controls_nothing_else_is_played(serial):
    recorded = Recorded(serial)
    assert len(scores_of(recorded, controls=())) == 4
    assert recorded.asked[1] == []


def test_scores_are_those_of_an_evaluator(serial, config):
    alone = Evaluator(config).play(CONTESTANTS["random"], 9).score
    assert scores_of(serial, controls=())[-1] == alone


def test_who_asks_to_stop_keeps_what_was_heard(serial):
    heard = []
    with pytest.raises(Interrupted):
        scores_of(serial, on_score=heard.append, stop=lambda: len(heard) == 3)
    assert [(score.policy, score.seed) for score in heard] == [("random", 5), ("random", 9), ("static", 5)]


def test_players_are_chosen_and_say_who_they_are(config, serial):
    assert serial.describe() == "one process on cpu"
    local = make_evaluators(placed(config, "local"), CONTESTANTS, greedy=True, workers=None)
    assert isinstance(local, LocalEvaluatorPool)
    from esper_actors.evaluation.actor import RayEvaluatorPool

    assert isinstance(make_evaluators(config, CONTESTANTS, greedy=True, workers=2), RayEvaluatorPool)


@pytest.fixture(scope="module")
def on_ray(config, ray_cluster):
    with make_evaluators(config, CONTESTANTS, greedy=True, workers=None) as players:
        yield players


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(240)
class TestRay:
    """On one cluster of two CPUs."""

    def test_ray_and_one_process_give_the_same_scores(self, on_ray, serial):
        assert on_ray.describe() == "Ray actors: 2 on cpu"
        heard = []
        assert scores_of(on_ray, on_score=heard.append) == scores_of(serial)
        assert len(heard) == 8

    def test_it_stops_when_asked_and_can_be_asked_again(self, on_ray, serial):
        with pytest.raises(Interrupted):
            scores_of(on_ray, stop=lambda: True)
        job = EvaluationTask("static", 5)
        assert list(on_ray.play([job], never)) == list(serial.play([job], never))
        assert list(on_ray.play([], never)) == []

    def test_an_error_of_a_player_is_told(self, on_ray):
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
def test_what_the_cluster_lacks_is_refused_with_the_arithmetic(config, devices, workers, message):
    from esper_actors.cluster.placement import ResourceError

    system = config.system.model_copy(update={"devices": devices})
    from esper_actors.evaluation.actor import RayEvaluatorPool

    players = RayEvaluatorPool(config.model_copy(update={"system": system}), CONTESTANTS, greedy=True, workers=workers)
    with pytest.raises(ResourceError, match=message), players:
        pass
