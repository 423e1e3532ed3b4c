"""Damaged states of episodes: refused as such, and the environment is as it was, byte for byte."""

import json

import numpy as np
import pytest
import torch
from damage_builders import flipped, mutated_tensors, other_values, places, value_at, with_value, without
from variants import rest_at_night

from esper_ray.environment import make_environment
from esper_ray.runtime.snapshot import SNAPSHOT, EpisodeStateError

pytestmark = pytest.mark.integration

QUICK = {
    "episode_length": 8,
    "training.steps_per_epoch": 1,
    "training.batch_size": 8,
    "task.validation_size": 10,
    "task.test_size": 10,
    "growth.slots": ["r0c0", "r0c1"],
    "growth.min_training_epochs": 1,
    "growth.min_gradient_health": 0.0,
    "governor.snapshot_every": 2,
    "reward.mode": "escrow",
}
KINDS = {"sgd": {}, "adamw": {"training.optimizer": "adamw"}}
MUTATIONS = 24
"""Damages of each kind; the seeds are 0 to this number."""


def environment(kind="sgd"):
    return make_environment("digits", QUICK | KINDS[kind])


def played(env, steps, seed=3):
    """The environment after some random legal steps."""
    env.reset(seed=seed)
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        masks = env.masks
        op = rng.choice(np.flatnonzero(masks.op))
        slot = rng.choice(np.flatnonzero(masks.slot_by_op[op]))
        env.step(np.array([op, slot, *(rng.choice(np.flatnonzero(mask)) for mask in masks.arguments.values())]))
    return env


@pytest.fixture(scope="module", params=KINDS)
def saved(request):
    """An environment in the middle of an episode, a state of an earlier step, and its own state."""
    env = played(environment(request.param), 5)
    earlier = env.save_state()
    env.step(np.zeros(8, dtype=int))
    return env, earlier, env.save_state()


def refuses(env, blob, before):
    """Whether ``blob`` is refused; nothing but an EpisodeStateError may be raised, and nothing may be changed."""
    error = None
    try:
        env.load_state(blob)
    except EpisodeStateError as refusal:
        error = refusal
    if error is None:
        env.load_state(before)
        return False
    assert "\n" not in str(error)
    assert env.save_state() == before
    return True


def content_of(blob):
    parts = SNAPSHOT.decode(blob, "it")
    return dict(parts.tensors), json.loads(json.dumps(parts.content))


def test_a_loaded_state_is_saved_to_the_same_bytes(saved):
    env, earlier, before = saved
    for blob in (earlier, before):
        env.load_state(blob)
        assert env.save_state() == blob


def test_every_flipped_bit_and_every_truncation_is_refused(saved):
    env, blob, before = saved
    rng = np.random.default_rng(1)
    for place in rng.integers(0, len(blob), MUTATIONS):
        changed = flipped(blob, int(place), int(rng.integers(8)))
        if not refuses(env, changed, before):
            assert content_of(changed)[1] == content_of(blob)[1]  # such as another space in the header
        assert refuses(env, blob[: int(place)], before)


@pytest.mark.parametrize("seed", rest_at_night(range(MUTATIONS), 12))
def test_other_tensors_are_refused(saved, seed):
    env, blob, before = saved
    tensors, content = content_of(blob)
    what, mutated = mutated_tensors(tensors, np.random.default_rng(seed))
    assert refuses(env, SNAPSHOT.encode(mutated, content), before), what


@pytest.mark.parametrize("seed", rest_at_night(range(MUTATIONS), 12))
def test_a_field_of_another_type_is_refused_or_is_a_possible_value(saved, seed):
    env, blob, before = saved
    tensors, content = content_of(blob)
    rng = np.random.default_rng(seed)
    paths = list(places(content))
    for _ in range(6):
        path = paths[int(rng.integers(len(paths)))]
        values = other_values(content, path)
        value = values[int(rng.integers(len(values)))]
        if not refuses(env, SNAPSHOT.encode(tensors, with_value(content, path, value)), before):
            present = value_at(content, path)
            assert _possible(path, present, value), (path, present, value)


def _possible(path, present, value):
    """Whether ``value`` has the type of the field, whose present value nothing else determines."""
    if isinstance(present, bool):
        return isinstance(value, bool) or value is None
    if isinstance(present, int | float) or present is None:
        return (
            value is None or (isinstance(value, int | float) and not isinstance(value, bool)) or isinstance(value, bool)
        )
    if isinstance(present, str):
        return isinstance(value, str) and path[-1] in ("explanation", "seed_id", "removal", 0, 1, 2)
    return value in ({}, [])


@pytest.mark.parametrize("key", ["digest", "data", "generator", "play", "life", "growth", "plain", "optimizer"])
def test_a_missing_part_is_refused_with_its_name(saved, key):
    env, blob, before = saved
    tensors, content = content_of(blob)
    with pytest.raises(EpisodeStateError, match=f"damaged: {key}: Field required"):
        env.load_state(SNAPSHOT.encode(tensors, without(content, (key,))))
    assert env.save_state() == before


IMPOSSIBLE = {
    ("generator",): ({}, "generator"),
    ("generator", "state", "state"): (-1, "generator is damaged: state.state"),
    ("life", "epoch"): (3, "since_snapshot|epoch"),
    ("life", "seed"): (4, "growth.seed"),
    ("life", "measured", "accuracy_pp"): (101.0, "measured.accuracy_pp is 101.0"),
    ("life", "measured", "examples"): (9, "measured.examples is 9, it must be 10"),
    ("life", "measured", "loss"): (float("nan"), "measured.loss is nan, it must be finite"),
    ("play", "illegal_actions"): (-1, "illegal_actions is -1"),
    ("play", "last_operation"): (77, "last_operation is 77"),
    ("play", "last_success"): (1, "play.last_success: Input should be a valid boolean"),
    ("play", "losses"): ([], "losses is 0"),
    ("play", "rewards", "control_pp"): ([50.0], "rewards.control_pp is 1"),
    ("growth", "epoch"): (4, "growth.epoch is 4"),
    ("trusted_growth", "germinations", "r0c0"): (-1, "germinations of r0c0 is -1"),
    ("growth", "states"): ({}, "name different slots: r0c0, r0c1"),
    ("optimizer",): ([], "has no place"),
    ("life", "seeds", "entries"): ({}, "seeds is {}, it must be {'r0c0': 'r0c0-1'}, as in the network"),
    ("play", "rewards", "accounts", "slots"): ({}, "accounts.slots is {}, it must be {'r0c0': 'r0c0-1'}, as in"),
}


@pytest.mark.parametrize("path", IMPOSSIBLE, ids=".".join)
def test_an_impossible_value_is_refused_with_place_and_rule(saved, path):
    env, blob, before = saved
    tensors, content = content_of(blob)
    value, message = IMPOSSIBLE[path]
    with pytest.raises(EpisodeStateError, match=message):
        env.load_state(SNAPSHOT.encode(tensors, with_value(content, path, value)))
    assert env.save_state() == before


def test_a_weight_of_the_host_that_is_not_finite_is_refused(saved):
    env, blob, before = saved
    tensors, content = content_of(blob)
    name = next(name for name in tensors if name.startswith("trusted/model/host.") and name.endswith("weight"))
    broken = SNAPSHOT.encode(tensors | {name: torch.full_like(tensors[name], torch.nan)}, content)
    with pytest.raises(EpisodeStateError, match=r"trusted tensor host\..* must be finite"):
        env.load_state(broken)
    assert env.save_state() == before


def test_an_environment_without_an_episode_is_as_it_was_after_a_refusal(saved):
    _, blob, _ = saved
    fresh = environment()
    with pytest.raises(EpisodeStateError):
        fresh.load_state(blob[:-1])
    assert not hasattr(fresh, "runtime")
    with pytest.raises(RuntimeError, match="call reset"):
        fresh.save_state()


def test_a_refused_state_does_not_change_later_steps(saved):
    _, blob, _ = saved
    env, twin = played(environment(), 4), played(environment(), 4)
    tensors, content = content_of(blob)
    assert refuses(env, SNAPSHOT.encode(tensors, with_value(content, ("generator",), {})), env.save_state())
    for _ in range(2):
        first, second = env.step(np.zeros(8, dtype=int)), twin.step(np.zeros(8, dtype=int))
        assert first[0]["features"].tolist() == second[0]["features"].tolist()
        assert first[1] == second[1]
    assert env.save_state() == twin.save_state()
    assert env.np_random.integers(2**32) == twin.np_random.integers(2**32)
