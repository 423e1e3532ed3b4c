"""Saved episodes: a changed one is refused, and the environment is as it was, byte for byte."""

import json
from functools import lru_cache

import numpy as np
from damage_builders import flipped, mutated_tensors, value_at

from corpus.cases import Case
from corpus.mutations import FOREIGN, pick, tree_damage
from esper_ray.environment import make_environment
from esper_ray.runtime.snapshot import SNAPSHOT, EpisodeStateError

INPUTS = ()
QUICK = {
    "episode_length": 8,
    "training.steps_per_epoch": 1,
    "training.batch_size": 8,
    "task.validation_size": 10,
    "task.test_size": 10,
    "growth.min_training_epochs": 1,
    "growth.min_gradient_health": 0.0,
    "governor.snapshot_every": 2,
}
KINDS = {"escrow": {"reward.mode": "escrow"}, "adamw": {"training.optimizer": "adamw"}}
FREE_TEXTS = ("explanation", "seed_id", "removal", 0, 1, 2)


@lru_cache
def played(kind):
    """An environment in the middle of an episode, its state, and an earlier one."""
    env = make_environment("digits", QUICK | KINDS[kind])
    env.reset(seed=3)
    rng = np.random.default_rng(3)
    states = []
    for _ in range(5):
        masks = env.masks
        op = rng.choice(np.flatnonzero(masks.op))
        slot = rng.choice(np.flatnonzero(masks.slot_by_op[op]))
        env.step(np.array([op, slot, *(rng.choice(np.flatnonzero(mask)) for mask in masks.arguments.values())]))
        states.append(env.save_state())
    return env, states[-2], states[-1]


def loading(kind, blob):
    """An attempt that loads ``blob`` and gives the state that is saved then."""

    def attempt(_folder):
        env, _, present = played(kind)
        try:
            env.load_state(blob)
        except EpisodeStateError:
            assert env.save_state() == present, "the environment has changed"
            raise
        result = env.save_state()
        env.load_state(present)
        return content(result)

    return attempt


def content(blob):
    """Everything in a state, for comparisons."""
    parts = SNAPSHOT.decode(blob, "it")
    tensors = {name: (str(tensor.dtype), tensor.tolist()) for name, tensor in parts.tensors.items()}
    return json.dumps([parts.content, tensors])


def cases(rng, scenes):
    while True:
        kind = pick(rng, KINDS)
        _, earlier, present = played(kind)
        blob = pick(rng, [earlier, present])
        which = "earlier" if blob is earlier else "present"
        damage = pick(rng, ["bit", "bit", "cut", "longer", "foreign", "leaf", "leaf", "leaf", "tensors", "tensors"])
        place, bit = int(rng.integers(len(blob))), int(rng.integers(8))
        parts = SNAPSHOT.decode(blob, "it")
        tensors, tree = dict(parts.tensors), json.loads(json.dumps(parts.content))
        accepts = None
        if damage == "bit":
            what, changed = f"bit {bit} of byte {place}", flipped(blob, place, bit)
        elif damage == "cut":
            what, changed = f"cut at byte {place}", blob[:place]
        elif damage == "longer":
            what, changed = f"{bit + 1} bytes longer", blob + bytes(bit + 1)
        elif damage == "foreign":
            what = pick(rng, FOREIGN)
            changed = FOREIGN[what]
        elif damage == "leaf":
            what, path, other = tree_damage(rng, tree)
            changed, accepts = SNAPSHOT.encode(tensors, other), possible(path, tree, other)
        else:
            what, mutated = mutated_tensors(tensors, rng)
            changed = SNAPSHOT.encode(mutated, tree)
        yield Case(f"{kind}, {which}: {what}", loading(kind, changed), accepts=accepts, reference=loading(kind, blob))


def possible(path, tree, other):
    """Whether the changed value has the type of the field, and nothing else determines it."""

    def right(_folder, _result, _undamaged):
        try:
            present, value = value_at(tree, path), value_at(other, path)
        except (KeyError, IndexError):
            return False
        if value is None or present is None:
            return True
        if isinstance(present, bool) or isinstance(value, bool):
            return isinstance(present, bool) and isinstance(value, bool)
        if isinstance(present, int | float):
            return isinstance(value, int | float)
        if isinstance(present, str):
            return isinstance(value, str) and path[-1] in FREE_TEXTS
        return value in ({}, [])

    return right
