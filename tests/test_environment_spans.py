"""Episodes whose slots sit on spans: policies widen the layers of built-in hosts."""

import pytest

from esper_policies.heuristic import HeuristicConfig, HeuristicPolicy
from esper_ray.environment import MorphogenesisEnv
from esper_ray.kasmina.network.spans.cell import SpanCell
from esper_ray.leyline.config.loading import ConfigError, build, read_preset
from esper_ray.tolaria.assembly import GrowthError

BLUEPRINTS = ["conv_small=widen_eighth", "conv_light=widen_quarter", "conv_heavy=widen_half"]
SETTINGS = {
    "growth.slots": ["r2c0", "r2c1", "r2c2"],
    "growth.blueprints": BLUEPRINTS,
    "growth.styles": ["linear_add", "sigmoid_add"],
    "growth.min_training_epochs": 1,
    "growth.min_gradient_health": 0.0,
    "growth.auto_forward": ["g1", "g2", "g3"],
    "episode_length": 16,
    "training.steps_per_epoch": 2,
    "task.validation_size": 60,
}


def make(**overrides):
    return MorphogenesisEnv(build(read_preset("digits"), SETTINGS | overrides))


def played(env, seed=0):
    """Rewards and reports of an episode under a heuristic that commits everything."""
    env.reset(seed=seed)
    policy = HeuristicPolicy(env.limits, HeuristicConfig(min_contribution_pp=-50.0, first_epoch=0))
    policy.begin_episode(0)
    rewards, reports, done = [], [], False
    while not done:
        *_, reward, terminated, truncated, info = env.step(policy.decide(env.view).action.to_indices())
        done = terminated or truncated
        assert not info["illegal"]
        rewards.append(reward)
        reports.append(info["reports"])
    return rewards, reports


@pytest.mark.integration
@pytest.mark.parametrize("start", ["paired", "random", "gradmax", "tiny"])
def test_seeds_on_spans_live_through_an_episode(start):
    env = make(**{"growth.initialisation.widen": start, "growth.widening_births": "hidden"})
    rewards, reports = played(env)
    stages = {report.stage.name for step in reports for report in step if report is not None}
    assert {"TRAINING", "BLENDING", "HOLDING"} <= stages
    assert {report.own_blueprint for step in reports for report in step if report is not None} <= {
        name.partition("=")[2] for name in BLUEPRINTS
    }
    assert played(env) == (rewards, reports)


@pytest.mark.integration
def test_seeds_on_spans_are_born_live():
    rewards, reports = played(env := make())
    seeds = [report for step in reports for report in step if report is not None]
    assert {report.stage.name for report in seeds} <= {"HOLDING", "FOSSILIZED"}
    assert {(report.alpha, report.tempo) for report in seeds} == {(1.0, 0)}
    assert played(env) == (rewards, reports)


@pytest.mark.integration
def test_an_episode_is_saved_and_resumed_in_the_middle():
    env, other = make(), make()
    env.reset(seed=3)
    policy = HeuristicPolicy(env.limits, HeuristicConfig(first_epoch=0))
    policy.begin_episode(0)
    for _ in range(8):
        env.step(policy.decide(env.view).action.to_indices())
    other.load_state(env.save_state())
    for _ in range(6):
        action = policy.decide(env.view).action.to_indices()
        first, second = env.step(action), other.step(action)
        assert first[1:4] == second[1:4]
        assert all((a == b).all() for a, b in zip(first[0].values(), second[0].values(), strict=True))


@pytest.mark.integration
@pytest.mark.parametrize(
    "host",
    [
        {"host.family": "mlp", "growth.slots": ["r2c0", "r2c2"]},
        {"host.family": "cnn", "host.blocks": 2, "growth.slots": ["r2c0", "r2c1"]},
    ],
    ids=["mlp", "cnn"],
)
def test_built_in_hosts_offer_spans(host):
    config = build({}, {k: v for k, v in SETTINGS.items() if not k.startswith("host")} | host)
    env = MorphogenesisEnv(config)
    env.reset(seed=0)
    model = env.runtime.organism.model
    assert all(isinstance(model.cell(slot), SpanCell) for slot in model.slot_ids)


def test_what_does_not_widen_is_refused_for_spans():
    with pytest.raises(GrowthError, match="blueprint 'norm' does not fit the span"):
        make(**{"growth.blueprints": ["norm"]}).reset(seed=0)
    with pytest.raises(GrowthError, match=r"growth\.styles: slot r2c0: seeds that widen a span are added"):
        make(**{"growth.styles": ["gated_gate"]}).reset(seed=0)
    with pytest.raises(ConfigError, match="to widen its layers r2c0 to r2c2"):
        make(**{"growth.slots": ["r2c3"]})


@pytest.mark.integration
def test_a_target_and_the_end_of_an_episode_stop_births():
    env = make(**{"growth.target_parameters": 1})
    env.reset(seed=0)
    assert not env.view.masks.op[1]
    hidden = {"growth.unfinished_births": "refuse", "growth.min_training_epochs": 4, "growth.widening_births": "hidden"}
    env = make(**hidden, episode_length=8)
    env.reset(seed=0)
    legal = []
    for _ in range(4):
        legal.append(bool(env.view.masks.op[1]))
        env.step([0] * 8)
    assert legal == [True, False, False, False]
