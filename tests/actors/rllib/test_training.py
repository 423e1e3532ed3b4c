"""Whole runs of RLlib's algorithms with our presets."""

import math

import pytest
import torch
from learner_builders import small_config
from rllib_builders import quiet_registry

from esper_policies.tamiyo import LearnedPolicy

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]


def is_finite(numbers):
    return all(math.isfinite(float(numbers[name])) for name in ("policy_loss", "vf_loss", "entropy"))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("name", "runners"),
    [("ppo", 0), pytest.param("ppo", 3, marks=pytest.mark.nightly), pytest.param("appo", 2, marks=pytest.mark.nightly)],
)
def test_rllib_trains_two_iterations(name, runners):
    from esper_actors.rllib import config as rllib

    presets = {"ppo": rllib.ppo_config, "appo": rllib.appo_config}
    config = presets[name](small_config(system__envs_per_actor={"ppo": 1, "appo": 2}[name]))
    config = config.copy(copy_frozen=False).env_runners(num_env_runners=runners)
    with quiet_registry():
        algorithm = config.build_algo()
    try:
        before = rllib.policy_weights(algorithm)
        results = [algorithm.train() for _ in range(2)]
        after = rllib.policy_weights(algorithm)
        assert algorithm.env_runner_group.num_remote_worker_restarts() == 0
        LearnedPolicy(small_config().policy).load(after, epsilon=0.0)
    finally:
        algorithm.stop()
    assert results[-1]["env_runners"]["num_env_steps_sampled_lifetime"] >= 12
    assert all(is_finite(result["learners"]["default_policy"]) for result in results if "learners" in result)
    assert is_finite(results[-1]["learners"]["default_policy"])
    assert all(not torch.equal(after[n], before[n]) for n in ("lstm.weight_hh_l0", "critic.3.weight", "op_head.2.bias"))
