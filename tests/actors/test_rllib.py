"""Policy V2, the environment and our loss under RLlib come to what they come to without it."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from learner_builders import small_config

from actors.ppo import PPOLearner, entropy_coefficient
from actors.rollout import EpisodeRunner
from esper_ray.environment import MorphogenesisEnv
from policies.distribution import ActionDistribution, MaskTensors
from policies.tamiyo import LearnedPolicy

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # RLlib's own, about its old stack
    from ray.rllib.core.columns import Columns

    from actors.rllib import TARGET_NAMES, TARGETS, make_env, ppo_config, record_of
    from policies.rllib import PackedDistribution, TamiyoModule, packed, packed_width

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

CONFIG = small_config(
    episode_length=5, system__envs=4, ppo__minibatch_episodes=4, ppo__epochs=1, policy__wait_logit=0.0
)


@pytest.fixture(scope="module")
def env():
    return MorphogenesisEnv(CONFIG)


@pytest.fixture(scope="module")
def module(env):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = TamiyoModule(
            observation_space=env.observation_space,
            action_space=env.action_space,
            model_config={"policy": CONFIG.policy.model_dump(), "max_seq_len": 7},
        )
    made.network.rescale_values(2.5)
    return made


@pytest.fixture(scope="module")
def played(env, module):
    """The views of one episode of our own player with the module's weights, and what it decided."""
    policy = LearnedPolicy(CONFIG.policy)
    policy.load(module.network.state_dict(), epsilon=0.0)
    return EpisodeRunner(env, policy).play(type("A", (), {"index": 0, "env": 0, "seed": 4})()).trajectory


def batch_of(trajectory, start, stop, state):
    rows = slice(start, stop)
    observation = {
        "features": torch.as_tensor(trajectory.features[None, rows]),
        "blueprints": torch.as_tensor(trajectory.blueprints[None, rows]),
        "masks": torch.as_tensor(trajectory.masks[None, rows]),
    }
    return {Columns.OBS: observation, Columns.STATE_IN: state}


def empty_state(module):
    return {name: torch.as_tensor(value)[None] for name, value in module.get_initial_state().items()}


def test_a_packed_answer_is_the_distribution_that_it_was_made_of(env, module, played):
    output = module.network(torch.as_tensor(played.features[None]), torch.as_tensor(played.blueprints[None]))
    masks = torch.as_tensor(played.masks)
    answers = packed(output, masks, module.network.value_scale)
    assert answers.shape == (5, packed_width(3))
    assert PackedDistribution.required_input_dim(env.action_space) == packed_width(3)
    found = PackedDistribution.from_logits(answers)
    expected = ActionDistribution(output.logits, MaskTensors.from_vectors(masks, 3))
    actions = torch.as_tensor(played.actions)
    assert torch.equal(found.logp(actions), sum(expected.log_probs(actions)))
    assert torch.equal(found.entropy(), expected.entropy())
    assert torch.equal(found.to_deterministic().sample(), expected.mode())
    assert found.kl(found).abs().max() == 0.0
    drawn, log_prob = found.sample_and_logp()
    assert torch.equal(log_prob, found.logp(drawn))


@pytest.mark.parametrize("slots", [1, 2, 5, 10])
def test_the_number_of_slots_is_read_off_the_width(slots):
    answers = torch.zeros(2, 3, packed_width(slots))
    answers[..., -packed_width(slots) :] = 1.0
    assert PackedDistribution(answers).sample().shape == (2, 3, 8)
    with pytest.raises(ValueError, match="no answer of Policy V2 has"):
        PackedDistribution(torch.ones(1, packed_width(slots) + 1))


def test_answers_step_by_step_are_those_of_the_whole_sequence_and_of_our_own_player(module, played):
    """Log-probabilities and values of the player, exploration with its memory, and training: ratio 1."""
    actions, state, log_probs, values = torch.as_tensor(played.actions)[None], empty_state(module), [], []
    with torch.no_grad():
        for step in range(5):
            answer = module.forward_exploration(batch_of(played, step, step + 1, state))
            state = answer[Columns.STATE_OUT]
            distribution = PackedDistribution(answer[Columns.ACTION_DIST_INPUTS])
            log_probs.append(distribution.logp(actions[:, step : step + 1]).item())
            values.append(distribution.values.item())
        whole = module.forward_train(batch_of(played, 0, 5, empty_state(module)))
    trained = PackedDistribution(whole[Columns.ACTION_DIST_INPUTS])
    expected = played.log_prob_op + played.log_prob_arguments
    assert log_probs == pytest.approx(list(expected), abs=1e-5)
    assert values == pytest.approx(list(played.values), abs=1e-5)
    assert trained.logp(actions)[0].tolist() == pytest.approx(list(expected), abs=1e-5)
    assert trained.values[0].tolist() == pytest.approx(list(played.values), abs=1e-5)
    assert trained.q_of(actions)[0].tolist() == pytest.approx(list(played.q_taken), abs=1e-5)


def test_steps_that_nobody_played_change_nothing_but_a_real_empty_mask_is_refused(module, played):
    batch = batch_of(played, 0, 5, empty_state(module))
    padded = {
        name: torch.cat([part, torch.zeros_like(part[:, :2])], dim=1) for name, part in batch[Columns.OBS].items()
    }
    alone = module.compute_values(batch)
    longer = module.compute_values(batch | {Columns.OBS: padded})
    assert torch.allclose(longer[:, :5], alone, atol=1e-6)
    assert torch.isfinite(longer).all()
    assert not padded["masks"][:, 5:].any(), "the batch was changed in place"
    with pytest.raises(ValueError, match="without any legal operation"):
        PackedDistribution(module.forward_exploration(batch | {Columns.OBS: padded})[Columns.ACTION_DIST_INPUTS])


def test_the_end_of_an_episode_is_final_for_rllib():
    wrapped = make_env({"config": CONFIG.model_dump(mode="json")})
    observation, info = wrapped.reset(seed=1)
    assert (wrapped.observation_space.contains(observation), info) == (True, {})
    ends = [wrapped.step(np.zeros(8, np.int64))[2:] for _ in range(5)]
    assert ends == [(False, False, {})] * 4 + [(True, False, {})]


def test_rllib_is_loaded_by_nothing_but_its_adapter():
    code = (
        "import sys, policies.tamiyo, policies.bundle, actors.rollout, actors.ppo, esper_ray.cli.main; "
        "print(any(name.startswith('ray.rllib') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.fixture(scope="module")
def algorithm(ray_cluster):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = ppo_config(CONFIG)
        config.rl_module_spec.model_config["max_seq_len"] = 7  # two steps of padding behind each episode
        made = config.build_algo()
    yield made
    made.stop()


@pytest.mark.ray
def test_the_loss_under_rllib_is_ours_on_the_same_episodes(algorithm):
    learner = algorithm.learner_group._learner
    episodes = algorithm.env_runner.sample(num_episodes=3)
    ours = PPOLearner(CONFIG)
    ours.network.load_state_dict(learner.network.state_dict())
    records = [record_of(episode, index) for index, episode in enumerate(episodes)]
    batch, targets = ours.begin_update(records)
    expected, loss = ours._losses(batch, targets, 0.0, entropy_coefficient(CONFIG.ppo, 0))

    made = learner._learner_connector(rl_module=learner.module, batch={}, episodes=episodes, shared_data={})
    (columns,) = made.values()
    assert columns[TARGETS].shape == (3, 7, len(TARGET_NAMES))
    assert columns[TARGETS][:, 5:].abs().max() == 0.0
    with torch.no_grad():
        answers = learner.module["default_policy"].forward_train(columns)
    found = learner.compute_loss_for_module(module_id="default_policy", config=None, batch=columns, fwd_out=answers)
    assert float(found) == pytest.approx(float(loss.detach()), rel=1e-6, abs=1e-6)
    assert abs(expected["policy_loss"]) < 1e-5, "before any step the ratio is 1, and advantages have mean 0"
    assert expected["value_loss"] > 1e-3
    learner.ours.learn_statistics(learner._batch)  # the update that was begun ends here
    learner._batch = None


@pytest.mark.ray
def test_rllibs_ppo_trains_two_iterations(algorithm):
    learner = algorithm.learner_group._learner
    before = {name: tensor.clone() for name, tensor in learner.network.state_dict().items()}
    results = [algorithm.train() for _ in range(2)]
    for result in results:
        seen = result["learners"]["default_policy"]
        names = ("policy_loss", "value_loss", "entropy", "kl", "total_loss")
        assert all(np.isfinite(float(seen[name])) for name in names)
        assert result["env_runners"]["num_episodes"] == 4
        assert np.isfinite(result["env_runners"]["episode_return_mean"])
    after = learner.network.state_dict()
    learnt = {name for name, _ in learner.network.named_parameters() if not torch.equal(before[name], after[name])}
    assert {"op_head.2.weight", "critic.3.weight", "lstm.weight_hh_l0", "slot_encoder.0.weight"} <= learnt
    assert not torch.equal(before["value_scale"], after["value_scale"])
    assert learner.ours.updates == 2
    player = algorithm.env_runner.module.network.state_dict()
    assert all(torch.equal(player[name], tensor) for name, tensor in after.items()), "the player has other weights"
