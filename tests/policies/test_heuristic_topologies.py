"""The heuristic policy in episodes on feature vectors and token sequences."""

from dataclasses import replace

import pytest

from esper_actors.rollout.recorder import Assignment
from esper_actors.rollout.runner import EpisodeRunner
from esper_policies.heuristic import HeuristicConfig, HeuristicPolicy
from esper_ray.environment import make_environment
from esper_ray.kasmina.measurement.seed_measurements import MeasuredSeeds
from esper_ray.leyline.actions import Action, Blueprint

pytestmark = pytest.mark.integration

QUICK = {
    "episode_length": 16,
    "training.steps_per_epoch": 2,
    "training.batch_size": 16,
    "task.validation_size": 40,
    "task.test_size": 20,
    "growth.min_training_epochs": 1,
    "growth.min_blending_epochs": 1,
    "growth.embargo_ticks": 1,
    "growth.min_gradient_health": 0.0,
    "growth.min_contribution_pp": 0.0,
}
MLP = {
    "host": {"family": "mlp", "width": 8, "blocks": 2, "expansion": 2, "dropout": 0.0},
    "growth.slots": ["r0c0", "r0c1"],
    "growth.blueprints": ["mlp_small", "norm", "lora"],
}
TEXT = {
    "task.block_size": 8,
    "task.validation_size": 6,
    "task.test_size": 6,
    "training.batch_size": 4,
    "host.context": 8,
    "host.embedding": 8,
    "host.heads": 2,
    "host.layers": 2,
    "host.segments": 2,
    "host.dropout": 0.0,
    "growth.slots": ["r0c0", "r0c1"],
    "growth.blueprints": ["mlp_small", "norm", "lora"],
}
LIFECYCLE = ["GERMINATED", "TRAINING", "BLENDING", "HOLDING"]
AUTO = [["g1", "g2", "g3"], ["g1"], []]


@pytest.fixture(params=["mlp", "transformer"])
def make(request, tmp_path):
    """``make(**settings)`` is an environment on a tiny host of the topology."""
    (tmp_path / "input.txt").write_text("the quick brown fox jumps over the lazy dog, " * 30)
    preset, host = ("digits", MLP) if request.param == "mlp" else ("text", TEXT | {"task.data_dir": str(tmp_path)})

    def environment(**settings):
        return make_environment(preset, QUICK | host | {key.replace("__", "."): v for key, v in settings.items()})

    return environment


def episode_of(env, **thresholds):
    """One episode; the runner refuses every illegal decision."""
    return EpisodeRunner(env, HeuristicPolicy(env.limits, HeuristicConfig(**thresholds))).play(Assignment(0, 0, 4))


def stages_of(episode, slot):
    return [r["to"] for r in episode.log if r["kind"] == "seed_transition" and r["slot"] == slot]


def planted(episode):
    return [Blueprint(Action(*r["action"]).blueprint) for r in episode.log if r.get("operation") == "GERMINATE"]


@pytest.mark.parametrize("auto", AUTO, ids=lambda gates: "+".join(gates) or "by hand")
def test_a_seed_in_the_deepest_slot_reaches_holding_and_fossilize(make, auto):
    """The gate decides whether FOSSILIZE succeeds."""
    episode = episode_of(make(growth__auto_forward=auto), min_contribution_pp=-100.0)
    stages = stages_of(episode, "r0c1")
    assert stages[:4] == LIFECYCLE
    assert episode.operations["FOSSILIZE"] >= 1
    assert planted(episode)[0] is Blueprint.MLP_SMALL
    assert (episode.operations["ADVANCE"] > 0) == (auto != AUTO[0])


def test_every_slot_is_grown(make):
    env = make(episode_length=30)
    episode = episode_of(env, min_contribution_pp=1000.0, patience=100)
    assert stages_of(episode, "r0c0") == stages_of(episode, "r0c1") == LIFECYCLE
    assert planted(episode) == [Blueprint.MLP_SMALL] * 2


def test_a_seed_without_contribution_is_replaced_by_the_next_blueprint(make):
    env = make(episode_length=45, growth__slots=["r0c0"])
    episode = episode_of(env, min_contribution_pp=1000.0, patience=1)
    assert planted(episode)[:3] == [Blueprint.MLP_SMALL, Blueprint.LORA, Blueprint.NORM]
    assert stages_of(episode, "r0c0")[4:9] == ["PRUNED", "EMBARGOED", "RESETTING", "DORMANT", "GERMINATED"]
    assert episode.fossilized == 0


def test_contributing_seeds_are_committed(make, monkeypatch):
    """The measured contribution is replaced, because that of so small a seed is random."""
    original = MeasuredSeeds.of

    def contributing(measured, slot):
        return replace(original(measured, slot), contribution_pp=5.0)

    monkeypatch.setattr(MeasuredSeeds, "of", contributing)
    env = make(episode_length=30)
    episode = episode_of(env)
    for slot in ("r0c0", "r0c1"):
        assert stages_of(episode, slot) == [*LIFECYCLE, "FOSSILIZED"]
    assert episode.fossilized == 2
    assert episode.growth_ratio > 1.0
    assert "contributes +5.0 points" in [r["why"] for r in episode.log if r.get("operation") == "FOSSILIZE"]
