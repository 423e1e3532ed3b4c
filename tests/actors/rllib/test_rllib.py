"""Policy V2 under RLlib: what is played is what is learnt from, and the loss is our learner's.

The first import of RLlib takes seconds, so everything of it is imported inside the fixtures and tests that need it.
"""

import math
import random
import subprocess
import sys
from copy import deepcopy

import numpy as np
import pytest
import torch
from learner_builders import drawn, open_masks, small_config, synthetic
from rllib_builders import as_rllib_episode, at_start, moved, observed, of_episode, some_masks

from esper_actors.training.ppo_learner import PPOLearner, padded_batch
from esper_policies.tamiyo import LearnedPolicy
from esper_ray.environment import MorphogenesisEnv
from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.legality import Masks
from esper_ray.leyline.policy import View

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]


@pytest.fixture(scope="module", autouse=True)
def global_generators():
    """RLlib seeds the generators of the whole process; they go on afterwards as if it had not."""
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state(), torch.are_deterministic_algorithms_enabled()
    cudnn = torch.backends.cudnn.deterministic
    yield
    torch.backends.cudnn.deterministic = cudnn
    random.setstate(kept[0])
    np.random.set_state(kept[1])
    torch.set_rng_state(kept[2])
    torch.use_deterministic_algorithms(kept[3])


@pytest.fixture(scope="module")
def config():
    return small_config(episode_length=6, system__envs=3, ppo__minibatch_episodes=3)


@pytest.fixture(scope="module")
def preset(config):
    from esper_actors.rllib.config import ppo_config

    return ppo_config(config)


@pytest.fixture(scope="module")
def runner(preset):
    """RLlib's environment runner, in this process."""
    from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

    runner = SingleAgentEnvRunner(config=preset)
    with torch.no_grad():  # choices that matter: neither nearly uniform nor nearly always WAIT
        for head in (runner.module.network.op_head[-1], runner.module.network.slot_head.score):
            head.weight.mul_(100.0)
        runner.module.network.value_scale.fill_(5.0)
    return runner


@pytest.fixture(scope="module")
def played(runner):
    """Three whole episodes, two of them from one sample."""
    return [*runner.sample(num_episodes=2), *runner.sample(num_episodes=1)]


@pytest.fixture
def learner(preset, runner):
    return preset.build_learner(env=runner.env.unwrapped)


# Two learners, one loss


@pytest.fixture
def both(config, learner):
    """Our learner and RLlib's with equal weights, and equal episodes of 6, 3 and 4 steps for each."""
    ours, module = PPOLearner(config), learner.module["default_policy"]
    ours.network.rescale_values(3.0)
    module.network.load_state_dict(ours.network.state_dict())
    only_wait = Masks(np.zeros((6, 3), bool), open_masks(3).arguments)
    only_wait.slot_by_op[LifecycleOp.WAIT] = True
    plans = [(6, some_masks()), (3, open_masks(3)), (4, only_wait)]
    rng = np.random.default_rng(0)
    episodes = [
        drawn(ours, synthetic(steps, rng.normal(size=steps) * 4, seed, slots=3, masks=masks), seed)
        for seed, (steps, masks) in enumerate(plans)
    ]
    return ours, episodes, learner, [as_rllib_episode(module, episode) for episode in episodes]


def prepared(learner, episodes):
    """The batch that RLlib's learner makes of ``episodes``."""
    batch = learner._learner_connector(rl_module=learner.module, batch={}, episodes=episodes, shared_data={})
    return batch["default_policy"]


def both_losses(both):
    ours, episodes, learner, theirs = both
    batch = padded_batch(episodes, ours.device)
    targets = ours._targets(batch)
    ours._rescale_values(episodes)
    columns, module = prepared(learner, theirs), learner.module["default_policy"]
    assert float(module.network.value_scale) == pytest.approx(float(ours.network.value_scale), rel=1e-6)
    weights = moved(ours.network)
    ours.network.load_state_dict(weights)
    module.network.load_state_dict(weights)
    report, mine = ours._losses(batch, targets, 0.0, ours.config.ppo.entropy_start)
    said = module.forward_train(columns)
    loss = learner.compute_loss_for_module(
        module_id="default_policy", config=learner.config, batch=columns, fwd_out=said
    )
    return report, mine, loss, learner.metrics.peek("default_policy")


def test_the_loss_on_a_batch_is_that_of_our_learner(both):
    report, mine, theirs, logged = both_losses(both)
    assert report["clip_share"] > 0  # ratios differ from 1, and some are clipped
    assert abs(report["policy_loss"]) > 1e-2
    assert theirs.item() == pytest.approx(mine.item(), rel=1e-6)
    for name in ("policy_loss", "value_loss", "entropy", "kl"):
        assert float(logged[name.replace("value", "vf")]) == pytest.approx(report[name], rel=1e-5), name


def test_its_gradients_are_those_of_our_learner(both):
    _, mine, theirs, _ = both_losses(both)
    mine.backward()
    theirs.backward()
    module = both[2].module["default_policy"]
    for (name, parameter), other in zip(both[0].network.named_parameters(), module.network.parameters(), strict=True):
        assert torch.allclose(parameter.grad, other.grad, rtol=1e-4, atol=1e-6), name


def test_a_whole_update_makes_the_same_network(both):
    ours, episodes, learner, theirs = both
    ours.update(episodes, round_index=0)
    learner.update(episodes=theirs, num_epochs=learner.config.num_epochs)
    found = learner.module["default_policy"].network.state_dict()
    for name, tensor in ours.network.state_dict().items():
        assert torch.allclose(found[name], tensor, rtol=1e-4, atol=1e-5), name


def test_minibatches_are_whole_episodes_each_in_a_row(both, monkeypatch):
    from esper_actors.rllib.config import ppo_config

    _, _, learner, theirs = both
    preset = ppo_config(small_config(episode_length=6, system__envs=3, ppo__minibatch_episodes=2))
    seen = []
    loss = learner.compute_loss_for_module
    monkeypatch.setattr(
        learner, "compute_loss_for_module", lambda **k: (seen.append(k["batch"]["loss_mask"]), loss(**k))[1]
    )
    learner.update(episodes=theirs, num_epochs=2, minibatch_size=preset.minibatch_size, shuffle_batch_per_epoch=True)
    assert {tuple(mask.shape) for mask in seen} == {(2, 7)}
    assert all(bool(mask.any(dim=1).all()) for mask in seen)


def test_an_update_ends_where_the_policy_has_moved_too_far(both):
    _, _, learner, theirs = both
    module = learner.module["default_policy"]
    learner.config = learner.config.copy(copy_frozen=False).training(kl_target=1e-9)
    before = {name: parameter.clone() for name, parameter in module.named_parameters() if "critic" not in name}
    learner.update(episodes=deepcopy(theirs), num_epochs=1)  # RLlib adds a step to every episode that it is given
    after_one = {name: p.clone() for name, p in module.named_parameters() if name in before}
    assert any(not torch.equal(after_one[name], before[name]) for name in before)  # the first step has a ratio of 1
    result = learner.update(episodes=theirs, num_epochs=1)  # as if they had been played before that step
    assert all(torch.equal(p, after_one[name]) for name, p in module.named_parameters() if name in before)
    assert result["default_policy"]["stopped_by_kl"].peek() == 1.0


def test_a_term_that_is_not_finite_is_refused(both):
    _, _, learner, theirs = both
    columns = prepared(learner, theirs)
    columns["returns"][0, 0] = math.inf
    said = learner.module["default_policy"].forward_train(columns)
    with pytest.raises(FloatingPointError, match="vf_loss = inf"):
        learner.compute_loss_for_module(module_id="default_policy", config=learner.config, batch=columns, fwd_out=said)


def test_a_learner_that_is_restored_goes_on_as_the_other_does(both, preset, runner):
    _, _, learner, theirs = both
    learner.update(episodes=deepcopy(theirs), num_epochs=1)
    other = preset.build_learner(env=runner.env.unwrapped)
    other.set_state(learner.get_state())
    assert other.return_scale.unit == learner.return_scale.unit != 1.0
    assert np.array_equal(other.base_moments.deviation, learner.base_moments.deviation)
    assert other.slot_moments.count == learner.slot_moments.count > 0
    for one in (learner, other):
        one.update(episodes=deepcopy(theirs), num_epochs=1)
    pairs = zip(learner.module["default_policy"].parameters(), other.module["default_policy"].parameters(), strict=True)
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs)


def test_more_learners_than_one_are_refused(preset, runner):
    several = preset.copy(copy_frozen=False).learners(num_learners=2)
    with pytest.raises(ValueError, match="one learner, got num_learners=2"):
        several.build_learner(env=runner.env.unwrapped)


# Playing


def test_what_was_sampled_is_evaluated_alike_in_the_learner(played, runner, learner):
    module = learner.module["default_policy"]
    module.set_state(runner.module.get_state())
    for episode in played:
        with torch.no_grad():
            said = module.forward_train(of_episode(module, episode))["action_dist_inputs"]
        actions = torch.from_numpy(np.asarray(episode.get_actions()))[None]
        now = module.action_dist_cls.from_logits(said).logp(actions)[0].numpy()
        assert np.allclose(now, episode.get_extra_model_outputs("action_logp"), atol=1e-5)


def test_every_episode_begins_with_an_empty_memory(runner):
    """Also the second of two that follow each other in one stream of steps."""
    episodes = [episode for episode in runner.sample(num_timesteps=12, force_reset=True) if episode.is_terminated]
    assert [len(episode) for episode in episodes] == [6, 6]
    for episode in episodes:
        seen = of_episode(runner.module, episode)["obs"]
        first = at_start(runner.module, {name: rows[:, :1] for name, rows in seen.items()})
        memory = runner.module.forward_exploration(first)["state_out"]["hidden"][0]
        assert np.allclose(memory, episode.get_extra_model_outputs("state_out")["hidden"][0], atol=1e-6)
        assert not np.allclose(memory, episode.get_extra_model_outputs("state_out")["hidden"][1], atol=1e-3)


def test_illegal_actions_are_never_chosen(played, runner):
    infos = [info for episode in played for info in episode.get_infos()[1:]]
    assert len(infos) == 18
    assert not any(info["illegal"] for info in infos)
    assert len({info["operation"] for info in infos}) > 1


def test_greedy_actions_are_those_of_the_policy_itself(config, runner):
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
    batch = at_start(runner.module, observed(views))
    said = runner.module.forward_inference(batch)["action_dist_inputs"]
    distribution = runner.module.action_dist_cls.from_logits(said).to_deterministic()
    actions, logp = distribution.sample(return_logp=True)
    assert actions[0].tolist() == [list(decision.action.to_indices()) for decision in decisions]
    assert np.allclose(logp[0], [d.log_prob_op + d.log_prob_arguments for d in decisions], atol=1e-5)
    values = runner.module.compute_values(batch)  # in units of reward: the critic's are five times as large
    assert np.allclose(values[0].detach(), [decision.value for decision in decisions], rtol=1e-5, atol=1e-5)


def test_values_have_no_gradient_for_the_policy(played, runner):
    values = runner.module.compute_values(of_episode(runner.module, played[0]))
    network = runner.module.network
    gradients = torch.autograd.grad(
        values.sum(), [network.op_head[-1].weight, network.critic[-1].weight], allow_unused=True
    )
    assert gradients[0] is None
    assert bool(gradients[1].any())


def test_weights_that_lack_something_are_refused(runner):
    state = runner.module.get_state()
    del state["network.lstm.bias_hh_l0"]
    with pytest.raises(ValueError, match=r"lacks network\.lstm\.bias_hh_l0"):
        runner.module.set_state(state)


def test_rows_that_no_number_of_slots_has_are_refused():
    from esper_actors.rllib.module import packed_size, unpacked

    with pytest.raises(ValueError, match="packed rows of 101 numbers"):
        unpacked(torch.zeros(2, packed_size(1) + 3))


# The environment


def test_the_length_of_an_episode_is_its_end_and_all_pay_is_at_its_cause(played):
    for episode in played:
        amounts = episode.get_infos(-1)["rewards_by_cause"]
        assert episode.is_terminated
        assert not episode.is_truncated
        assert amounts.sum() == pytest.approx(episode.get_return(), abs=1e-5)


def test_no_two_episodes_have_the_same_seed(played):
    """RLlib gives the same one before each sample of whole episodes."""
    assert len({int(episode.get_infos(-1)["episode_seed"]) for episode in played}) == 3


def test_a_seed_that_is_given_again_goes_on_and_another_begins_anew(config):
    from esper_actors.rllib.config import WholeEpisodes

    env, other = (WholeEpisodes(MorphogenesisEnv(config)) for _ in range(2))
    first, second, third, fourth = (env.reset(seed=seed)[1]["episode_seed"] for seed in (1, 1, 2, None))
    assert len({first, second, third, fourth}) == 4
    assert [other.reset(seed=seed)[1]["episode_seed"] for seed in (2, 2)] == [third, fourth]


def test_rewards_are_learnt_from_at_the_step_that_caused_them():
    from esper_actors.rllib.learner import rewards_by_cause

    class WholeEpisode:
        t_started = 0

        def get_infos(self, index):
            return {"rewards_by_cause": np.array([3.0, 0.0, 1.0])}

    class ResumedEpisode(WholeEpisode):
        t_started = 4

    paid = torch.tensor([[0.0, 0.0, 4.0, 0.0], [1.0, 2.0, 0.0, 0.0]])
    assert rewards_by_cause(paid, [WholeEpisode(), ResumedEpisode()]).tolist() == [
        [3.0, 0.0, 1.0, 0.0],
        [1.0, 2.0, 0.0, 0.0],
    ]
    with pytest.raises(ValueError, match="1 episodes in 2 rows"):
        rewards_by_cause(paid, [WholeEpisode()])


def test_an_environment_is_made_from_a_preset_and_overrides():
    from esper_actors.rllib.config import make_rllib_environment

    env = make_rllib_environment({"preset": "digits", "overrides": {"growth.slots": ["r0c1"]}})
    assert env.observation_space["blueprints"].shape == (1,)


# Presets


def test_presets_keep_an_episode_in_a_row_and_wait_for_slow_environments(config):
    from esper_actors.rllib.config import appo_config, ppo_config

    for preset in (ppo_config(config), appo_config(config)):
        assert preset.rl_module_spec.model_config["max_seq_len"] == 6 + 1
        assert preset.sample_timeout_s is None
        assert (preset.num_gpus_per_env_runner, preset.env_config["device"]) == (0, "cpu")
    assert ppo_config(config).minibatch_size is None  # all three episodes at a time: the whole batch
    assert ppo_config(small_config(episode_length=40, system__envs=8)).minibatch_size == 2 * 41 + 1
    assert ppo_config(config).entropy_coeff == [[0, 0.02], [2 * 3 * 6, 0.005]]
    assert ppo_config(small_config(ppo__rounds=1)).entropy_coeff == 0.02


def test_a_gpu_is_shared_by_all_who_use_it():
    from esper_actors.rllib.config import ppo_config

    preset = ppo_config(small_config(system__device="cuda:0", system__devices=("cuda:0",)))
    assert preset.num_gpus_per_env_runner == preset.num_gpus_per_learner == pytest.approx(1 / 3)
    assert preset.env_config["device"] == "cuda"
    spread = ppo_config(small_config(system__envs=3, system__device="cpu", system__devices=("cuda:0", "cuda:1")))
    assert (spread.num_gpus_per_env_runner, spread.num_gpus_per_learner) == (0.5, 0)


# Whole runs


def finite(numbers):
    return all(math.isfinite(float(numbers[name])) for name in ("policy_loss", "vf_loss", "entropy"))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("name", ["ppo", "appo"])
# RLlib makes the same environment twice in a process, and leaves Gymnasium to warn of it
@pytest.mark.filterwarnings("ignore:.*Overriding environment rllib-single-agent-env-v0.*:UserWarning")
def test_rllib_trains_two_iterations(name):
    from esper_actors.rllib import config as rllib

    presets = {"ppo": rllib.ppo_config, "appo": rllib.appo_config}
    config = presets[name](small_config(system__envs_per_actor={"ppo": 1, "appo": 2}[name]))
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
    assert all(finite(result["learners"]["default_policy"]) for result in results if "learners" in result)
    assert finite(results[-1]["learners"]["default_policy"])
    assert all(not torch.equal(after[n], before[n]) for n in ("lstm.weight_hh_l0", "critic.3.weight", "op_head.2.bias"))


def test_importing_our_packages_imports_no_rllib():
    program = (
        "import sys, esper_policies.tamiyo, esper_policies.bundle, esper_actors.training.ppo_learner\n"
        "import esper_actors.factory, esper_actors.rollout.runner, esper_ray.cli.main\n"
        "assert not [name for name in sys.modules if name == 'ray' or name.startswith('ray.')]\n"
        "import esper_actors.cluster.workers\n"
        "assert not [name for name in sys.modules if name.startswith('ray.rllib')]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
