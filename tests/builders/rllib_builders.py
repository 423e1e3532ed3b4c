"""Batches, episodes and weights that the tests of the RLlib adapter are made of."""

import numpy as np
import torch
from learner_builders import open_masks

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.legality import Masks


def observed(views):
    """(1, T) observations as RLlib's module takes them."""
    columns = {
        "features": np.stack([view.features for view in views]),
        "blueprints": np.stack([view.blueprints for view in views]),
        "masks": np.stack([view.masks.vector() for view in views]),
    }
    return {name: torch.from_numpy(rows)[None] for name, rows in columns.items()}


def at_start(module, observations):
    """A batch of episodes from their beginning."""
    size = module.get_initial_state()["hidden"].shape[0]
    rows = len(observations["features"])
    return {"obs": observations, "state_in": {name: torch.zeros(rows, size) for name in ("hidden", "cell")}}


def of_episode(module, episode):
    """A batch of one of RLlib's episodes, without the observation after its end."""
    seen = episode.get_observations(slice(0, len(episode)))
    return at_start(module, {name: torch.from_numpy(np.asarray(rows))[None] for name, rows in seen.items()})


def as_rllib_episode(module, episode):
    """One of our episodes as RLlib's, with what its module says about every step."""
    from ray.rllib.env.single_agent_episode import SingleAgentEpisode

    t = episode.trajectory
    rows = [
        {"features": t.features[i], "blueprints": t.blueprints[i], "masks": t.masks[i]} for i in range(len(t.rewards))
    ]
    views = {name: torch.from_numpy(np.stack([row[name] for row in rows]))[None] for name in rows[0]}
    with torch.no_grad():
        said = module.forward_exploration(at_start(module, views))["action_dist_inputs"]
        logp = module.action_dist_cls.from_logits(said).logp(torch.from_numpy(t.actions)[None])
    return SingleAgentEpisode(
        observations=[*rows, rows[-1]],
        infos=[{} for _ in range(len(rows) + 1)],
        actions=list(t.actions),
        rewards=list(t.rewards),
        terminated=True,
        extra_model_outputs={"action_dist_inputs": list(said[0].numpy()), "action_logp": list(logp[0].numpy())},
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


def moved(network):
    """The weights of ``network`` after a step that matters."""
    generator = torch.Generator().manual_seed(7)
    return {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator) if name.endswith("weight") else tensor
        for name, tensor in network.state_dict().items()
    }
