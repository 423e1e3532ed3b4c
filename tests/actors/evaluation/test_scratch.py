"""Networks trained without a policy: equal operations, searches over topologies and their budgets."""

from itertools import islice
from types import SimpleNamespace

import pytest

from esper_actors.evaluation.candidates import SCRATCH_FLOPS, Candidate
from esper_actors.evaluation.evaluator import Evaluator, FinalNetwork
from esper_actors.evaluation.scratch import ScratchTraining, ScratchTrial, Search, promoted, topologies
from esper_actors.rollout.runner import Interrupted
from esper_ray.environment import make_environment
from esper_ray.leyline.actions import Blueprint, GerminationStyle
from esper_ray.leyline.config.loading import build, read_preset
from esper_ray.leyline.legality import Limits
from esper_ray.runtime.host import PlantedSeed

SMALL = {
    "episode_length": 9,
    "training.steps_per_epoch": 2,
    "training.batch_size": 16,
    "task.validation_size": 50,
    "task.test_size": 50,
    "growth.min_training_epochs": 1,
}
SEEDS = (PlantedSeed("r0c0", "conv_light", GerminationStyle.LINEAR_ADD),)
TWO_SLOTS = Limits(
    ("r0c0", "r0c1"), frozenset({Blueprint.NORM, Blueprint.CONV_LIGHT, Blueprint.NOOP}), frozenset(GerminationStyle)
)
slow = pytest.mark.integration


@pytest.fixture(scope="module")
def evaluator():
    return Evaluator(build(read_preset("digits"), SMALL))


def planted(*pairs):
    return tuple(PlantedSeed(slot, blueprint, GerminationStyle.LINEAR_ADD) for slot, blueprint in pairs)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("random-search-1x", Search(False, 1)),
        ("asha-16x", Search(True, 16)),
        *((name, None) for name in ("asha", "asha-0x", "asha-x", "asha-2", "asha-100x", "grid-search-2x", "Asha-2x")),
    ],
)
def test_searches_are_named_by_kind_and_multiple(name, expected):
    assert Search.parse(name) == expected


def test_random_topologies_come_once_each_and_begin_again():
    """Three choices in each of two slots; NOOP is none."""
    nine = list(islice(topologies(TWO_SLOTS, 5), 9))
    assert set(nine) == {
        (),
        *(planted((slot, blueprint)) for slot in TWO_SLOTS.slots for blueprint in ("norm", "conv_light")),
        *(planted(("r0c0", a), ("r0c1", b)) for a in ("norm", "conv_light") for b in ("norm", "conv_light")),
    }
    assert list(islice(topologies(TWO_SLOTS, 5), 9)) == nine
    assert list(islice(topologies(TWO_SLOTS, 6), 9)) != nine
    assert len(list(islice(topologies(TWO_SLOTS, 5), 12))) == 12


def test_topologies_hold_no_more_seeds_than_allowed():
    limits = Limits(tuple(f"r0c{i}" for i in range(16)), TWO_SLOTS.blueprints, TWO_SLOTS.styles, max_seeds=2)
    sizes = [len(seeds) for seeds in islice(topologies(limits, 0), 200)]
    assert max(sizes) == 2
    assert all(
        list(seeds) == sorted(seeds, key=lambda s: int(s.slot[3:])) for seeds in islice(topologies(limits, 0), 50)
    )


def test_own_blueprints_have_their_own_names():
    limits = Limits(("r0c0",), frozenset({Blueprint.NORM}), TWO_SLOTS.styles, own_blueprints={Blueprint.NORM: "mine"})
    assert set(islice(topologies(limits, 0), 2)) == {(), planted(("r0c0", "mine"))}


def trials(*objectives):
    return [ScratchTrial(SimpleNamespace(), dict(scores)) for scores in objectives]


def test_the_best_third_of_those_that_came_as_far_is_trained_on():
    rungs = (1, 3, 9)
    assert promoted([], rungs) is None
    assert promoted(trials({1: 5.0}, {1: 7.0}), rungs) is None
    three = trials({1: 5.0}, {1: 7.0}, {1: 6.0})
    assert promoted(three, rungs) is three[1]
    three[1].objectives_pp[3] = 4.0
    assert promoted(three, rungs) is None
    six = trials({1: 5.0}, {1: 7.0, 3: 4.0}, {1: 6.0}, {1: 1.0}, {1: 2.0}, {1: 3.0})
    assert promoted(six, rungs) is six[2]
    higher = trials({1: 9.0, 3: 1.0}, {1: 8.0, 3: 3.0}, {1: 7.0, 3: 2.0}, *({1: 0.0} for _ in range(6)))
    assert promoted(higher, rungs) is higher[1]


@slow
def test_equal_operations_are_so_many_epochs_of_the_final_topology(evaluator):
    """A growth that cost two thirds of the operations of the topology over all epochs pays for six of nine epochs."""
    whole = evaluator.unsteered("from-scratch", 3, FinalNetwork(0, SEEDS)).score.train_flops
    score = evaluator.unsteered(SCRATCH_FLOPS, 3, FinalNetwork(0, SEEDS, whole * 2 / 3)).score
    assert score.train_flops == pytest.approx(whole * 2 / 3)
    short = Evaluator(build(read_preset("digits"), SMALL | {"episode_length": 6}))
    expected = short.unsteered("from-scratch", 3, FinalNetwork(0, SEEDS)).score
    assert (score.test_accuracy_pp, score.val_accuracy_pp) == (expected.test_accuracy_pp, expected.val_accuracy_pp)


@slow
def test_a_random_search_spends_its_budget_and_returns_the_best(evaluator):
    growth = evaluator.unsteered("from-scratch", 3, FinalNetwork(0, SEEDS)).score.train_flops
    results = [evaluator.unsteered(f"random-search-{times}x", 3, FinalNetwork(0, (), growth)) for times in (1, 2, 4)]
    objectives = [result.score.objective_pp for result in results]
    assert objectives[1] <= objectives[2]  # the first topologies are the same; the very first one may be cut short
    for times, result in zip((1, 2, 4), results, strict=True):
        assert 0 < result.score.train_flops <= times * growth
        assert result.score.total_reward is None
        again = Evaluator(evaluator.config).unsteered(f"random-search-{times}x", 3, FinalNetwork(0, (), growth))
        assert again == result


@slow
def test_successive_halving_trains_few_networks_to_the_end(evaluator):
    lengths = []

    class Watched(ScratchTraining):
        def train(self, trial, should_stop, **limits):
            lengths.append(limits["until"])
            return super().train(trial, should_stop, **limits)

    env = make_environment("digits", SMALL)
    meter = evaluator.flops
    growth = evaluator.unsteered("from-scratch", 3, FinalNetwork(0, SEEDS)).score.train_flops
    meter.total = 0.0
    scratch = Watched(evaluator.config, env, "cpu", meter)
    best = scratch.successive_halving(3, 8 * growth, lambda runtime: runtime.measured.accuracy_pp, lambda: False)
    counts = [lengths.count(rung) for rung in (1, 3, 9)]
    assert counts[0] > 3 * counts[2] >= 3
    assert abs(3 * counts[1] - counts[0]) <= 3
    spent = meter.total
    dearest = planted(*((slot, "bottleneck") for slot in env.limits.slots))
    epoch = evaluator.unsteered("from-scratch", 3, FinalNetwork(0, dearest)).score.train_flops / 9
    assert 8 * growth <= spent < 8 * growth + epoch
    assert 1 <= best.epoch <= 9


@slow
def test_a_search_is_interrupted_between_epochs(evaluator):
    for kind in ("random-search-2x", "asha-2x", SCRATCH_FLOPS):
        with pytest.raises(Interrupted):
            evaluator.unsteered(kind, 3, FinalNetwork(0, SEEDS, 1e7), lambda: True)


@slow
def test_the_best_of_several_tries_counts_with_the_operations_of_all(evaluator):
    alone = Candidate("heuristic", baseline="heuristic")
    several = evaluator.play(Candidate("best-of-3", baseline="heuristic", tries=3), 4)
    single = evaluator.play(alone, 4)
    assert several.score.seed == 4
    assert several.score.objective_pp >= single.score.objective_pp
    assert several.score.train_flops > 2 * single.score.train_flops
    one = evaluator.play(Candidate("heuristic", baseline="heuristic", tries=1), 4)
    assert one == single
