"""The heuristic policy in real episodes."""

import pytest
from policy_builders import FAST_LIVES

from esper_actors.rollout.recorder import Assignment
from esper_actors.rollout.runner import EpisodeRunner
from esper_policies.heuristic import HeuristicConfig, HeuristicPolicy
from esper_ray.environment import make_environment
from esper_ray.leyline.actions import Action

pytestmark = [pytest.mark.integration, pytest.mark.slow]

FAST = FAST_LIVES | {"training.steps_per_epoch": 1}


def episode_of(overrides, seed=0, **thresholds):
    """One episode; the runner refuses every illegal decision."""
    env = make_environment("digits", FAST | overrides)
    policy = HeuristicPolicy(env.limits, HeuristicConfig(**thresholds))
    return EpisodeRunner(env, policy).play(Assignment(0, 0, seed))


def moves_of(episode):
    return [
        (record["slot"], record["from"], record["to"]) for record in episode.log if record["kind"] == "seed_transition"
    ]


def stages_by_slot(episode):
    reached = {}
    for slot, _, stage in moves_of(episode):
        reached.setdefault(slot, []).append(stage)
    return reached


@pytest.mark.parametrize("auto", [["g1"], ["g1", "g2", "g3"]], ids=["manual", "auto"])
def test_seeds_reach_holding_with_manual_and_automatic_gates(auto):
    keeps_all = episode_of({"growth.auto_forward": auto, "episode_length": 16}, min_contribution_pp=-100.0)
    lifecycle = ["GERMINATED", "TRAINING", "BLENDING", "HOLDING"]
    assert stages_by_slot(keeps_all)["r0c2"][:4] == lifecycle
    assert (keeps_all.operations["ADVANCE"] > 0) == (auto != ["g1", "g2", "g3"])


def test_a_seed_that_never_contributes_is_pruned_and_replaced():
    episode = episode_of({"episode_length": 40, "growth.slots": ["r0c2"]}, min_contribution_pp=1000.0, patience=2)
    assert episode.fossilized == 0
    assert episode.operations["PRUNE"] >= 2
    planted = [record["action"] for record in episode.log if record.get("operation") == "GERMINATE"]
    blueprints = [Action(*action).blueprint for action in planted]
    assert blueprints[:3] == [1, 4, 5][: len(blueprints)]
    assert len(blueprints) >= 2


def test_all_slots_are_grown_in_one_episode():
    episode = episode_of({}, min_contribution_pp=1000.0, patience=100)
    assert set(stages_by_slot(episode)) == {"r0c0", "r0c1", "r0c2"}
    assert {slot: stages[-1] for slot, stages in stages_by_slot(episode).items()} == dict.fromkeys(
        ("r0c0", "r0c1", "r0c2"), "HOLDING"
    )


def test_equal_seeds_give_equal_episodes():
    first, repeated = (episode_of({"episode_length": 12}, seed=3) for _ in range(2))
    assert first.log == repeated.log
    assert episode_of({"episode_length": 12}, seed=4).log != first.log


def test_a_full_episode_on_digits_commits_seeds_and_improves_accuracy():
    env = make_environment("digits")
    episode = EpisodeRunner(env, HeuristicPolicy(env.limits)).play(Assignment(0, 0, 0))
    moves = {(source, target) for _, source, target in moves_of(episode)}
    assert {("DORMANT", "GERMINATED"), ("TRAINING", "BLENDING"), ("BLENDING", "HOLDING")} <= moves
    assert episode.fossilized >= 1
    assert episode.committed_accuracy_pp > episode.log[0]["val_accuracy_pp"] + 20
    assert episode.growth_ratio > 1.0
    assert not episode.rollback
