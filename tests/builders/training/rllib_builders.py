"""Batches, episodes and weights for the tests of the RLlib adapter, and a guard of the global generators."""

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from learner_builders import open_masks

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.legality import Masks


@contextmanager
def preserved_generators() -> Iterator[None]:
    """Restore the generators and determinism flags of the process, which RLlib sets wherever it has a seed."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    deterministic = torch.are_deterministic_algorithms_enabled()
    cudnn_deterministic = torch.backends.cudnn.deterministic
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = cudnn_deterministic
        torch.use_deterministic_algorithms(deterministic)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@contextmanager
def quiet_registry() -> Iterator[None]:
    """RLlib registers the same environment with Gymnasium for every runner of a process, and Gymnasium warns of it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*Overriding environment rllib-single-agent-env-v0", UserWarning)
        yield


def observation_batch(views):
    """(1, T) observations in the layout of RLlib's module."""
    columns = {
        "features": np.stack([view.features for view in views]),
        "blueprints": np.stack([view.blueprints for view in views]),
        "context": np.stack([view.context for view in views]),
        "masks": np.stack([view.masks.vector() for view in views]),
    }
    return {name: torch.from_numpy(rows)[None] for name, rows in columns.items()}


def at_start(module, observations):
    """A batch of episodes from their first step, with zero memory."""
    size = module.get_initial_state()["hidden"].shape[0]
    rows = len(observations["features"])
    return {"obs": observations, "state_in": {name: torch.zeros(rows, size) for name in ("hidden", "cell")}}


def episode_batch(module, episode):
    """A batch of one of RLlib's episodes, without the observation after its end."""
    observations = episode.get_observations(slice(0, len(episode)))
    return at_start(module, {name: torch.from_numpy(np.asarray(rows))[None] for name, rows in observations.items()})


def as_rllib_episode(module, episode, length):
    """One of our episodes as RLlib's, with the module's outputs; environments run ``length`` steps."""
    from ray.rllib.env.single_agent_episode import SingleAgentEpisode

    t = episode.trajectory
    columns = ("features", "blueprints", "context", "masks")
    rows = [{name: getattr(t, name)[i] for name in columns} for i in range(len(t.rewards))]
    views = {name: torch.from_numpy(np.stack([row[name] for row in rows]))[None] for name in rows[0]}
    with torch.no_grad():
        logits = module.forward_exploration(at_start(module, views))["action_dist_inputs"]
        logp = module.action_dist_cls.from_logits(logits).logp(torch.from_numpy(t.actions)[None])
    return SingleAgentEpisode(
        observations=[*rows, rows[-1]],
        infos=[*({} for _ in rows), {"rewards_by_cause": np.pad(t.rewards, (0, length - len(rows)))}],
        actions=list(t.actions),
        rewards=list(t.rewards),
        terminated=True,
        extra_model_outputs={"action_dist_inputs": list(logits[0].numpy()), "action_logp": list(logp[0].numpy())},
        len_lookback_buffer=0,
    ).to_numpy()


def some_masks():
    """Masks under which some operations, slots and arguments are illegal."""
    masks = open_masks(3)
    slot_by_op = masks.slot_by_op.copy()
    slot_by_op[LifecycleOp.GERMINATE] = [False, True, False]
    slot_by_op[LifecycleOp.FOSSILIZE] = False
    blueprint = np.arange(13) < 4
    return Masks(slot_by_op, masks.arguments | {"blueprint": blueprint})


def perturbed_weights(network):
    """The weights of ``network`` with noise that changes its outputs visibly."""
    generator = torch.Generator().manual_seed(7)
    return {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator) if name.endswith("weight") else tensor
        for name, tensor in network.state_dict().items()
    }
