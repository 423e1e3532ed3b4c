"""The search for the best script, with an evaluator whose objective is known."""

from types import SimpleNamespace

import pytest

from esper_actors.evaluation.script_search import FIRST_SCRIPT_SEED, best_script, first_scripts, random_scripts
from esper_policies.baselines import SchedulePolicy
from esper_ray.leyline.actions import Blueprint, GerminationStyle
from esper_ray.leyline.legality import Limits

BLUEPRINTS = frozenset({Blueprint.NORM, Blueprint.CONV_LIGHT, Blueprint.NOOP})
LIMITS = Limits(("r0c0", "r0c1", "r0c2"), BLUEPRINTS, frozenset(GerminationStyle))


def convolutions(script):
    return sum(line.blueprint == "conv_light" for line in script if line.op == "germinate")


class KnownPool:
    """Evaluators whose objective is the number of convolutions, plus noise that halves with every seed."""

    def __init__(self, scripts):
        self.scripts, self.played = scripts, []

    def play(self, tasks, should_stop):
        for task in tasks:
            self.played.append((task.label, task.seed))
            score = SimpleNamespace(
                objective_pp=convolutions(self.scripts[task.label].script) + (0.2 if task.seed % 2 else -0.2),
                train_flops=2.0,
            )
            yield task, SimpleNamespace(score=score)


def test_random_scripts_are_legal_distinct_and_a_function_of_the_seed():
    scripts = random_scripts(LIMITS, 40, 50, seed=1)
    assert len({candidate.script for candidate in scripts.values()}) == 50
    for candidate in scripts.values():
        SchedulePolicy(LIMITS, candidate.script)
        births = [line for line in candidate.script if line.op == "germinate"]
        assert 1 <= len(births) == len({line.slot for line in births})
        assert {line.blueprint for line in births} <= {"norm", "conv_light"}
        assert all(0 <= line.epoch <= 20 for line in births)
    assert random_scripts(LIMITS, 40, 50, seed=1) == scripts
    assert random_scripts(LIMITS, 40, 50, seed=2) != scripts


def test_scripts_grow_no_more_seeds_than_allowed():
    limits = Limits(LIMITS.slots, BLUEPRINTS, LIMITS.styles, max_seeds=1)
    assert all(len(candidate.script) == 2 for candidate in random_scripts(limits, 40, 20, 0).values())
    with pytest.raises(ValueError, match="scripts need at least one blueprint"):
        random_scripts(Limits(LIMITS.slots, frozenset({Blueprint.NOOP}), LIMITS.styles), 40, 1, 0)


def test_the_search_halves_the_scripts_and_doubles_the_seeds():
    """16 scripts on one seed, 8 on two, 4 on four, 2 on eight: 64 episodes."""
    scripts = random_scripts(LIMITS, 40, first_scripts(64), 0)
    pool, scores = KnownPool(scripts), []
    found = best_script(pool, scripts, lambda: False, scores.append)
    assert (len(scripts), len(pool.played), found.lives, len(scores)) == (16, 64, 64, 64)
    assert found.flops == 128.0
    last = {label for label, seed in pool.played if seed >= FIRST_SCRIPT_SEED + 7}
    assert len(last) == 2
    assert {seed for _, seed in pool.played} == set(range(FIRST_SCRIPT_SEED, FIRST_SCRIPT_SEED + 15))
    assert convolutions(found.script) == max(convolutions(candidate.script) for candidate in scripts.values())
    assert found.candidate().label == "schedule-best"


def test_a_search_needs_enough_episodes():
    assert first_scripts(32) == 8
    with pytest.raises(ValueError, match="at least 32 episodes, got 31"):
        first_scripts(31)
