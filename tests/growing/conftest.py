"""A policy bundle whose choices depend on what it sees."""

import pytest
import torch

from esper_policies.bundle import BundleManifest, PolicyBundle, Provenance, policy_observation
from esper_policies.network import PolicyNetwork
from esper_ray.leyline.blueprints import Topology
from esper_ray.leyline.config.loading import build, read_preset

SETTINGS = {
    "episode_length": 20,
    "task.validation_size": 80,
    "training.steps_per_epoch": 2,
    "training.batch_size": 32,
    "training.host_grad_clip": 0.5,
    "training.seed_grad_clip": 0.5,
    "growth.incubation.share": 0.5,
    "growth.min_training_epochs": 2,
    "growth.min_gradient_health": 0.0,
    "growth.embargo_ticks": 1,
    "policy.feature_size": 16,
    "policy.memory_size": 16,
    "policy.wait_logit": -1.0,
}


@pytest.fixture(scope="session")
def config():
    return build(read_preset("digits"), SETTINGS)


@pytest.fixture(scope="session")
def bundle(config):
    """Untrained policy whose choices depend on the view."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        network = PolicyNetwork(config.policy)
    with torch.no_grad():
        for layer, _ in network._final_layers():
            layer.weight.mul_(60.0)
    provenance = Provenance(
        run="r", round=1, episodes=2, config_sha256="", task="digits", reward="basic", episode_length=20, package="0"
    )
    manifest = BundleManifest(
        observation=policy_observation(),
        actions=(),
        topologies=(Topology.IMAGES,),
        growth=config.growth,
        policy=config.policy,
        parameters=0,
        weights_sha256="",
        provenance=provenance,
    )
    return PolicyBundle(manifest, network.state_dict())
