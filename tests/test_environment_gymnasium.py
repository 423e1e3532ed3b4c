"""Environment within Gymnasium: render modes, refusals of ``make``, pickles and vectors of environments."""

import copy
import pickle
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv
from torch import nn

import esper_ray  # noqa: F401 - registers the environment
from esper_ray.environment import MorphogenesisEnv, make_environment
from esper_ray.kasmina.hosts import HostSpec
from esper_ray.leyline.actions import WAIT, Action, GerminationStyle, LifecycleOp
from esper_ray.leyline.config.loading import build, read_preset
from esper_ray.leyline.errors import UsageError

pytestmark = pytest.mark.integration

NAME = "esper_ray/Morphogenesis-v0"
TINY = {"episode_length": 6, "training.steps_per_epoch": 2, "training.batch_size": 16, "task.validation_size": 50}
GROW = Action(op=int(LifecycleOp.GERMINATE), slot=1, style=int(GerminationStyle.LINEAR_ADD)).to_indices()
STAY = WAIT.to_indices()


def made(**options):
    return gymnasium.make(NAME, preset="digits", overrides=TINY, **options)


def rest_of_episode(env, steps):
    """Observations as bytes, rewards, ends and losses of random actions from the space's own stream."""
    results = []
    for _ in range(steps):
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        seen = {name: array.tobytes() for name, array in observation.items()}
        results.append((seen, reward, terminated, truncated, info["val_loss"], info["train_loss"]))
    return results


@pytest.mark.parametrize("mode", [None, "ansi", "rgb_array"])
def test_check_env_passes_without_a_warning_in_every_render_mode(mode):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        check_env(made(render_mode=mode).unwrapped)
    assert [str(warning.message) for warning in seen] == []


def test_no_render_mode_draws_nothing_and_records_nothing():
    env = made(render_mode=None)
    env.reset(seed=0)
    env.step(STAY)
    assert env.render() is None
    assert env.unwrapped._lanes == {}


def test_text_follows_the_episode():
    env = made(render_mode="ansi")
    env.reset(seed=0)
    assert "r0c1  |      | empty" in env.render()
    for action in (STAY, GROW, STAY):
        env.step(action)
    text = env.render()
    assert text.startswith("epoch 3 of 6: validation accuracy ")
    (lane,) = (line for line in text.splitlines() if line.startswith("r0c1"))
    assert lane[7:13] in (".tt   ", ".gt   ", ".gg   ")
    env.reset(seed=1)
    assert "r0c1  |      | empty" in env.render()


def test_pictures_of_an_episode_have_one_size_and_differ():
    env = made(render_mode="rgb_array")
    env.reset(seed=0)
    first = env.render()
    env.step(GROW)
    second = env.render()
    assert first.shape == second.shape == (44 + 40 * 3, 720, 3)
    assert (first != second).any()


def test_rendering_does_not_change_an_episode():
    drawn, plain = made(render_mode="rgb_array"), made()
    for env in (drawn, plain):
        env.reset(seed=4)
        env.action_space.seed(4)
    drawn.render()
    first = rest_of_episode(drawn, 3)
    drawn.render()
    assert first + rest_of_episode(drawn, 3) == rest_of_episode(plain, 6)


@pytest.mark.parametrize("mode", ["human", "rgb_array_list", ""])
def test_another_render_mode_is_refused_with_the_modes_there_are(mode):
    with pytest.raises(UsageError, match=rf"render_mode '{mode}' does not exist; the modes are 'ansi', 'rgb_array'"):
        made(render_mode=mode)


def test_rendering_before_the_first_reset_is_an_error():
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        make_environment("digits", TINY, render_mode="ansi").render()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"task.train_size": 100, "training.batch_size": 101}, "batch_size 101 exceeds the 100 training examples"),
        ({"training.compile_mode": "captured"}, "compile_mode captured needs a CUDA device, got cpu"),
    ],
)
def test_make_refuses_what_the_first_step_would_refuse(overrides, message):
    with pytest.raises(UsageError, match=message):
        gymnasium.make(NAME, preset="digits", overrides=overrides)


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "cuda:-1", ""])
def test_make_refuses_a_device_that_does_not_exist(device):
    with pytest.raises(UsageError, match=f"device '{device}'"):
        gymnasium.make(NAME, preset="digits", device=device)


def test_the_constructor_refuses_a_batch_larger_than_its_own_data():
    with pytest.raises(UsageError, match="batch_size 64 exceeds the 50 training examples"):
        MorphogenesisEnv(build(read_preset("digits"), {"task.train_size": 50, "training.batch_size": 64}))


def test_the_constructor_refuses_a_batch_that_the_host_cannot_train_on():
    def normalised_host(data):
        layers = (nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
        return HostSpec(nn.Sequential(*layers), {"r0c0": "1"})

    overrides = {"training.batch_size": 1, "growth.slots": ["r0c0"], "growth.blueprints": ["norm"]}
    config = build(read_preset("digits"), overrides)
    with pytest.raises(UsageError, match=r"cannot train on batches of training.batch_size 1: Expected more than 1 val"):
        MorphogenesisEnv(config, host=normalised_host)


def test_making_an_environment_leaves_the_global_generators_unchanged():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    make_environment("digits", TINY)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("copied", [lambda env: pickle.loads(pickle.dumps(env)), copy.deepcopy])
@pytest.mark.parametrize("steps", [0, 3, 6])
def test_a_copy_continues_the_episode_bit_for_bit(copied, steps):
    env = made(render_mode="ansi")
    env.reset(seed=2)
    env.action_space.seed(2)
    rest_of_episode(env, steps)
    second = copied(env)
    assert second.render() == env.render()
    assert second.unwrapped.outcome == env.unwrapped.outcome
    assert rest_of_episode(second, 6 - steps) == rest_of_episode(env, 6 - steps)
    assert second.render() == env.render()
    first_observation, second_observation = env.reset()[0], second.reset()[0]  # the stream of later seeds too
    assert first_observation["features"].tolist() == second_observation["features"].tolist()


def test_an_environment_is_pickled_before_its_first_reset():
    env = pickle.loads(pickle.dumps(made()))
    assert env.spec.id == NAME
    env.reset(seed=0)
    assert len(pickle.dumps(make_environment("digits", TINY))) < 50_000  # without the data of the task


def made_with_one_thread():
    """Sums depend on the number of threads, which a new process does not inherit."""
    torch.set_num_threads(1)
    return made()


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.nightly)])
def test_asynchronous_environments_equal_single_ones(context):
    vector = AsyncVectorEnv([made_with_one_thread] * 2, context=context)
    try:
        vector.reset(seed=[3, 4])
        actions = np.stack([GROW, STAY])
        steps = [vector.step(actions if step == 0 else np.stack([STAY, STAY])) for step in range(3)]
    finally:
        vector.close()
    for index, seed in enumerate((3, 4)):
        env = made()
        env.reset(seed=seed)
        for step, (observation, reward, *_rest) in enumerate(steps):
            expected, expected_reward, *_others = env.step(GROW if (step, index) == (0, 0) else STAY)
            assert expected["features"].tolist() == observation["features"][index].tolist()
            assert expected_reward == reward[index]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"overrides": 5}, "overrides 5: it must be a mapping of dotted configuration keys"),
        ({"overrides": [("a", 1)]}, "it must be a mapping of dotted configuration keys"),
        ({"overrides": "seed=1"}, "it must be a mapping of dotted configuration keys"),
        ({"overrides": {5: 1}}, "overrides: the key 5 must be a dotted configuration key"),
        ({"preset": 5}, "preset 5: it must be the name of a preset"),
        ({"preset": None}, "preset None: it must be the name of a preset"),
        ({"device": 5}, "device 5: it must be cpu or cuda:<index>"),
        ({"device": None}, "device None: it must be cpu or cuda:<index>"),
    ],
)
def test_make_refuses_an_argument_of_another_type_with_its_name(arguments, message):
    with pytest.raises(UsageError, match=message):
        gymnasium.make(NAME, **({"preset": "digits", "overrides": TINY} | arguments))


@pytest.mark.parametrize("options", [5, "x", [], [1], {"x": 1}, {5: 1}])
def test_reset_refuses_options_with_their_value(options):
    env = made()
    with pytest.raises(UsageError, match="reset has none"):
        env.unwrapped.reset(seed=1, options=options)
    env.reset(seed=1, options={})
