"""Policy V2 as an RLModule: sampled actions, memory, greedy actions and values."""

import numpy as np
import pytest
import torch
from rllib_builders import at_start, episode_batch, observation_batch

from esper_policies.tamiyo import LearnedPolicy
from esper_ray.environment import MorphogenesisEnv
from esper_ray.leyline.policy import View

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]


def test_log_probabilities_of_sampled_actions_are_equal_in_the_learner(episodes, runner, learner):
    module = learner.module["default_policy"]
    module.set_state(runner.module.get_state())
    for episode in episodes:
        with torch.no_grad():
            logits = module.forward_train(episode_batch(module, episode))["action_dist_inputs"]
        actions = torch.from_numpy(np.asarray(episode.get_actions()))[None]
        log_probabilities = module.action_dist_cls.from_logits(logits).logp(actions)[0].numpy()
        assert np.allclose(log_probabilities, episode.get_extra_model_outputs("action_logp"), atol=1e-5)


def test_every_episode_starts_with_zero_memory(runner):
    """Also the second of two consecutive episodes in one stream of steps."""
    episodes = [episode for episode in runner.sample(num_timesteps=12, force_reset=True) if episode.is_terminated]
    assert [len(episode) for episode in episodes] == [6, 6]
    for episode in episodes:
        observations = episode_batch(runner.module, episode)["obs"]
        first = at_start(runner.module, {name: rows[:, :1] for name, rows in observations.items()})
        memory = runner.module.forward_exploration(first)["state_out"]["hidden"][0]
        assert np.allclose(memory, episode.get_extra_model_outputs("state_out")["hidden"][0], atol=1e-6)
        assert not np.allclose(memory, episode.get_extra_model_outputs("state_out")["hidden"][1], atol=1e-3)


def test_illegal_actions_are_never_sampled(episodes):
    infos = [info for episode in episodes for info in episode.get_infos()[1:]]
    assert len(infos) == 18
    assert not any(info["illegal"] for info in infos)
    assert len({info["operation"] for info in infos}) > 1


def test_greedy_actions_and_values_equal_those_of_our_policy(config, runner):
    env, policy = MorphogenesisEnv(config), LearnedPolicy(config.policy)
    policy.load(runner.module.network.state_dict(), epsilon=0.0)
    policy.greedy = True
    env.reset(seed=3)
    policy.begin_episode(0)
    views: list[View] = []
    decisions = []
    for _ in range(config.episode_length):
        views.append(env.view)
        decisions.append(policy.decide(views[-1]))
        env.step(decisions[-1].action.to_indices())
    batch = at_start(runner.module, observation_batch(views))
    logits = runner.module.forward_inference(batch)["action_dist_inputs"]
    distribution = runner.module.action_dist_cls.from_logits(logits).to_deterministic()
    actions, logp = distribution.sample(return_logp=True)
    assert actions[0].tolist() == [list(decision.action.to_indices()) for decision in decisions]
    assert np.allclose(logp[0], [d.log_prob_op + d.log_prob_arguments for d in decisions], atol=1e-5)
    values = runner.module.compute_values(batch)  # in units of reward: the critic's are five times as large
    assert np.allclose(values[0].detach(), [decision.value for decision in decisions], rtol=1e-5, atol=1e-5)


def test_values_have_no_gradient_with_respect_to_the_op_head(episodes, runner):
    values = runner.module.compute_values(episode_batch(runner.module, episodes[0]))
    network = runner.module.network
    gradients = torch.autograd.grad(
        values.sum(), [network.op_head[-1].weight, network.critic[-1].weight], allow_unused=True
    )
    assert gradients[0] is None
    assert bool(gradients[1].any())


def test_a_state_that_lacks_weights_is_refused(runner):
    state = runner.module.get_state()
    del state["network.lstm.bias_hh_l0"]
    with pytest.raises(ValueError, match=r"lacks network\.lstm\.bias_hh_l0"):
        runner.module.set_state(state)


def test_packed_rows_of_an_impossible_length_are_refused():
    from esper_actors.rllib.module import packed_size, unpacked

    with pytest.raises(ValueError, match="packed rows of 101 numbers"):
        unpacked(torch.zeros(2, packed_size(1) + 3))
