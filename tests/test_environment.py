"""Environment: Gymnasium's contract, determinism, legality, lifecycles and rewards of episodes."""

import random
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from esper_ray.environment import make_environment
from esper_ray.leyline.actions import ARGUMENT_HEADS, WAIT, Action, Blueprint, GerminationStyle, LifecycleOp
from esper_ray.leyline.config.loading import ConfigError
from esper_ray.leyline.stages import Stage
from esper_ray.simic.live.state import Accounts
from esper_ray.tolaria.assembly import GrowthError
from esper_ray.tolaria.tasks import TaskError

pytestmark = pytest.mark.integration

TINY = {"episode_length": 6, "training.steps_per_epoch": 2, "training.batch_size": 16, "task.validation_size": 50}
QUICK = TINY | {
    "episode_length": 24,
    "training.steps_per_epoch": 1,
    "growth.min_training_epochs": 1,
    "growth.embargo_ticks": 1,
    "growth.min_gradient_health": 0.0,
}
FULL = {"training.batch_size": 32, "growth.min_training_epochs": 2, "episode_length": 40}


def act(op, slot=0, **choices):
    return Action(op=int(op), slot=slot, **choices).to_indices()


STAY = WAIT.to_indices()
GROW = act(LifecycleOp.GERMINATE, 1, tempo=0, style=int(GerminationStyle.LINEAR_ADD))
SCRIPT = (GROW, STAY, STAY, act(LifecycleOp.PRUNE, 1), STAY, act(LifecycleOp.GERMINATE, 0, blueprint=3))


@pytest.fixture
def env():
    return make_environment("digits", TINY)


def weights(env):
    return {name: tensor.clone() for name, tensor in env.organism.model.state_dict().items()}


def scripted(env, seed):
    """Observations, rewards, losses and weights of a scripted episode, as bytes and exact numbers."""
    observation, info = env.reset(seed=seed)
    seen = [{name: array.tobytes() for name, array in observation.items()}]
    rewards = []
    for action in SCRIPT:
        observation, reward, _, _, info = env.step(action)
        seen.append({name: array.tobytes() for name, array in observation.items()})
        rewards.append((reward, info["entries"], info["train_loss"], info["val_loss"]))
    return seen, rewards, {name: tensor.numpy().tobytes() for name, tensor in weights(env).items()}


def test_the_environment_passes_gymnasiums_checker(env):
    """Every warning of the checker is an error here."""
    check_env(env, skip_render_check=True)  # with rendering: test_environment_gymnasium.py


def fresh_process(program, folder):
    """Output words of ``program`` in a new interpreter with warnings as errors."""
    command = [sys.executable, "-W", "error", "-c", program]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


@pytest.mark.slow
@pytest.mark.nightly
def test_gymnasium_makes_the_environment_by_name_in_a_fresh_process(tmp_path):
    """Gymnasium imports the package before the colon; torch is loaded with the environment only."""
    program = """
import sys, gymnasium
assert not {"esper_ray", "torch"} & sys.modules.keys()
env = gymnasium.make("esper_ray:esper_ray/Morphogenesis-v0", preset="digits")
print(env.spec.id, type(env.unwrapped).__name__, env.unwrapped.config.episode_length, env.action_space.nvec.sum())
"""
    assert fresh_process(program, tmp_path) == ["esper_ray/Morphogenesis-v0", "MorphogenesisEnv", "40", "41"]


def test_importing_the_package_registers_it_without_loading_torch(tmp_path):
    program = """
import sys, esper_ray, gymnasium
print("esper_ray/Morphogenesis-v0" in gymnasium.registry, "torch" in sys.modules)
"""
    assert fresh_process(program, tmp_path) == ["True", "False"]


def test_an_environment_of_gymnasium_make_runs_with_its_wrappers():
    env = gymnasium.make("esper_ray/Morphogenesis-v0", preset="digits", overrides=TINY)
    observation, _ = env.reset(seed=3)
    assert env.observation_space.contains(observation)
    env.action_space.seed(3)
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(6)]
    assert ends == [(False, False)] * 5 + [(False, True)]


def test_an_episode_is_a_pure_function_of_its_seed(env):
    first = scripted(env, 7)
    assert scripted(env, 7) == first  # same object, again
    assert scripted(make_environment("digits", TINY), 7) == first  # another object
    seen, rewards, tensors = scripted(env, 8)
    assert seen != first[0]
    assert rewards != first[1]
    assert tensors != first[2]


def test_the_global_generators_are_neither_used_nor_changed(env):
    first = scripted(env, 7)
    torch.manual_seed(99)
    np.random.seed(99)
    random.seed(99)
    before = torch.get_rng_state(), np.random.get_state()[1].tobytes(), random.getstate()
    assert scripted(env, 7) == first
    after = torch.get_rng_state(), np.random.get_state()[1].tobytes(), random.getstate()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_later_episode_seeds_are_a_function_of_the_first(env):
    chains = []
    for environment in (env, make_environment("digits", TINY)):
        seeds = [environment.reset(seed=5)[1]["episode_seed"]]
        seeds += [environment.reset()[1]["episode_seed"] for _ in range(3)]
        chains.append(seeds)
    assert chains[0] == chains[1]
    assert chains[0][0] == 5
    assert len(set(chains[0])) == 4


def test_an_episode_is_truncated_at_its_length_and_then_over(env):
    env.reset(seed=1)
    ends = [env.step(STAY)[2:4] for _ in range(6)]
    assert ends == [(False, False)] * 5 + [(False, True)]
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(STAY)
    env.reset(seed=1)
    assert env.step(STAY)[2:4] == (False, False)


def test_a_step_before_the_first_reset_is_an_error(env):
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(STAY)


@pytest.mark.parametrize(
    ("head", "size"),
    [
        ("op", 6),
        ("slot", 3),
        ("blueprint", 13),
        ("style", 4),
        ("tempo", 3),
        ("alpha_target", 3),
        ("alpha_speed", 4),
        ("alpha_curve", 5),
    ],
)
def test_an_index_out_of_range_is_refused_with_the_name_of_its_head(env, head, size):
    env.reset(seed=1)
    before = weights(env)
    for value in (size, -1):
        requested = Action(**{"op": 0, head: value}).to_indices()
        with pytest.raises(ValueError, match=rf"action head '{head}' takes 0\.\.{size - 1}, got {value}"):
            env.step(requested)
    assert env.epoch == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(env).items())
    env.step(Action(**{"op": 0, head: size - 1}).to_indices())


def test_an_action_of_another_length_is_refused(env):
    env.reset(seed=1)
    with pytest.raises(ValueError, match="8 indices, got 7"):
        env.step(STAY[:7])


def some_action(env, rng):
    """A uniform action with probability 0.5, otherwise a legal one other than WAIT if possible."""
    if rng.random() < 0.5:
        return env.action_space.sample()
    masks = env.masks
    ops = [op for op in LifecycleOp if masks.op[op] and op is not LifecycleOp.WAIT] or [LifecycleOp.WAIT]
    op = rng.choice(ops)
    slot = int(rng.choice(np.flatnonzero(masks.slot_by_op[op])))
    arguments = {head: int(rng.choice(np.flatnonzero(masks.arguments[head]))) for head in ARGUMENT_HEADS}
    return np.array(act(op, slot, **arguments))


@pytest.fixture(scope="module", params=[["g1", "g2", "g3"], []], ids=["auto", "manual"])
def fuzzed(request):
    """Records of fuzzed episodes: requested actions, masks and results."""
    env = make_environment("digits", QUICK | {"growth.auto_forward": request.param})
    env.action_space.seed(0)
    rng = np.random.default_rng(0)
    records, totals = [], []
    for seed in range(3):
        observation, _ = env.reset(seed=seed)
        rewards, over = [], False
        while not over:
            action = some_action(env, rng)
            allowed, masks = env.masks.allows(Action(*map(int, action))), observation["masks"]
            assert (masks == env.masks.vector()).all()
            observation, reward, terminated, truncated, info = env.step(action)
            over = terminated or truncated
            rewards.append(reward)
            records.append((Action(*map(int, action)), allowed, observation, reward, info, env.action_masks()))
        totals.append((sum(rewards), env.ledger.total(), env.ledger.by_cause(env.epoch).sum(), env.illegal_actions))
    return env, records, totals


@pytest.mark.slow
def test_fuzzing_reaches_every_operation_and_nearly_every_stage(fuzzed):
    env, records, _ = fuzzed
    operations = {info["operation"] for *_, info, _ in records}
    assert operations >= {"WAIT", "GERMINATE", "SET_ALPHA_TARGET", "PRUNE"}
    assert ("ADVANCE" in operations) == env.limits.manual_advance
    stages = {report.stage for *_, info, _ in records for report in info["reports"] if report is not None}
    assert stages >= {Stage.TRAINING, Stage.BLENDING, Stage.HOLDING, Stage.EMBARGOED, Stage.RESETTING}


def test_an_action_is_flagged_as_illegal_iff_the_masks_forbid_it(fuzzed):
    _, records, totals = fuzzed
    flagged = [info["illegal"] for *_, info, _ in records]
    assert flagged == [not allowed for _, allowed, *_ in records]
    assert 0 < sum(flagged) < len(flagged)
    assert sum(flagged) == sum(illegal for *_, illegal in totals)


def test_legal_actions_are_executed_and_illegal_ones_become_wait(fuzzed):
    """Legal commands can fail at a gate only, and then the log has the gate's verdict."""
    env, records, _ = fuzzed
    for action, allowed, _, _, info, _ in records:
        if not allowed:
            assert (info["operation"], info["slot"]) == ("WAIT", None)
            continue
        assert info["operation"] == action.operation.name
        if not info["success"]:
            assert action.operation in (LifecycleOp.ADVANCE, LifecycleOp.FOSSILIZE)
            slot = env.limits.slots[action.slot]
            verdicts = [e.data["passed"] for e in info["events"] if e.kind == "gate" and e.data["slot"] == slot]
            assert False in verdicts


def test_every_observation_lies_in_the_observation_space(fuzzed):
    env, records, _ = fuzzed
    for _, _, observation, *_ in records:
        assert env.observation_space.contains(observation)
        assert np.isfinite(observation["features"]).all()


def test_the_reward_of_a_step_is_the_sum_of_its_entries(fuzzed):
    _, records, totals = fuzzed
    for _, _, _, reward, info, _ in records:
        assert reward == pytest.approx(sum(entry.amount for entry in info["entries"]), abs=1e-12)
    for earned, ledger, caused, _ in totals:
        assert ledger == pytest.approx(earned, abs=1e-9)
        assert caused == pytest.approx(earned, abs=1e-9)


def test_action_masks_fit_algorithms_with_independent_heads(fuzzed):
    """Format of MaskablePPO: flat, boolean, one block per head, no head without a choice."""
    env, records, _ = fuzzed
    for *_, masks in records:
        assert masks.dtype == np.bool_
        assert masks.shape == (env.action_space.nvec.sum(),)
        blocks = np.split(masks, np.cumsum(env.action_space.nvec)[:-1])
        assert all(block.any() for block in blocks)
        assert blocks[0][LifecycleOp.WAIT]


@pytest.mark.parametrize("mode", ["basic", "sparse"])
def test_every_reward_is_a_float_in_every_mode(mode):
    env = make_environment("digits", TINY | {"reward.mode": mode})
    env.reset(seed=1)
    assert all(isinstance(env.step(STAY)[1], float) for _ in range(6))


def transitions(events):
    """(from, to, initiator) of every stage change."""
    moves = [event.data for event in events if event.kind == "seed_transition"]
    return [(move["from"], move["to"], move["initiator"]) for move in moves]


def grow_to_commitment(env):
    """Germinate in r0c2 and advance to commitment; returns stage changes and rewards of FOSSILIZE steps."""
    env.reset(seed=0)
    moves, commits = [], []
    action = act(LifecycleOp.GERMINATE, 2, style=int(GerminationStyle.LINEAR_ADD), tempo=0)
    for _ in range(40):
        *_, info = env.step(action)
        moves += transitions(info["events"])
        if info["operation"] == "FOSSILIZE":
            commits.append((info["success"], [entry.source for entry in info["entries"]]))
        if env.reports[2].stage is Stage.FOSSILIZED:
            return moves, commits, info
        legal = [op for op in (LifecycleOp.FOSSILIZE, LifecycleOp.ADVANCE) if env.masks.slot_by_op[op, 2]]
        action = act(legal[0], 2) if legal else STAY
    raise AssertionError(f"not committed in time: {moves}")


@pytest.mark.parametrize(("auto", "mover"), [([], "policy"), (["g1", "g2", "g3"], "clock")], ids=["manual", "auto"])
def test_a_seed_passes_all_stages_from_germination_to_commitment(auto, mover):
    env = make_environment("digits", FULL | {"growth.auto_forward": auto})
    moves, commits, info = grow_to_commitment(env)
    assert moves == [
        ("DORMANT", "GERMINATED", "policy"),
        ("GERMINATED", "TRAINING", mover),
        ("TRAINING", "BLENDING", mover),
        ("BLENDING", "HOLDING", mover),
        ("HOLDING", "FOSSILIZED", "policy"),
    ]
    assert [success for success, _ in commits] == [False] * (len(commits) - 1) + [True]
    for success, sources in commits:
        assert ("commitment" in sources) is success
    grown = 9 * 8 * 8 + 3 * 8  # conv_light on 8 channels
    assert info["reports"][2].blueprint is Blueprint.CONV_LIGHT
    assert (info["committed_parameters"], info["total_parameters"]) == (grown, 160 + grown)
    assert info["growth_ratio"] == pytest.approx((160 + grown) / 160)
    assert env.organism.optimizer.group_names == ["host"]
    assert not env.masks.slot_by_op[1:, 2].any()  # a fossil is final
    assert env.masks.slot_by_op[LifecycleOp.GERMINATE].tolist() == [True, True, False]


def test_more_than_four_seeds_are_measured_by_sampling():
    """With five players a part of the 32 coalitions is measured, including the full, empty and leave-one-out ones."""
    five = {"growth.slots": ["r0c0", "r0c1", "r0c2", "r1c0", "r1c1"], "growth.min_training_epochs": 0}
    few = {"measurement.permutations": 1, "episode_length": 60}
    env = make_environment("digits", QUICK | five | few)
    env.reset(seed=1)
    sizes = {}
    for _ in range(60):
        free = np.flatnonzero(env.masks.slot_by_op[LifecycleOp.GERMINATE])
        env.step(act(LifecycleOp.GERMINATE, int(free[0]), blueprint=3, tempo=0) if len(free) else STAY)
        sizes[len(env.measured.players)] = len(env.measured.coalitions)
        if len(env.measured.players) == 5:
            everyone = frozenset(env.measured.players)
            measured = {coalition.members for coalition in env.measured.coalitions}
            assert {frozenset(), everyone} | {everyone - {slot} for slot in everyone} <= measured
            assert all(report.measured.contribution_pp is not None for report in env.reports)
    assert {n: sizes[n] for n in range(5)} == {0: 0, 1: 2, 2: 4, 3: 8, 4: 16}
    assert 7 <= sizes[5] < 16


def test_unavailable_tasks_and_blueprints_are_refused_by_the_environment(tmp_path):
    with pytest.raises(ConfigError, match="unknown preset 'digit'; did you mean 'digits'"):
        make_environment("digit")
    with pytest.raises(ConfigError, match="episode_lenght"):
        make_environment("digits", {"episode_lenght": 3})
    with pytest.raises(GrowthError, match="no blueprint 'lora'"):
        make_environment("digits", {"growth.blueprints": ["lora"]})
    with pytest.raises(TaskError, match="unknown task 'digitz'"):
        make_environment("digits", {"task.name": "digitz"})


def test_the_test_split_is_measured_separately_from_the_episode(env):
    env.reset(seed=1)
    before = weights(env)
    report = env.test_measurement()
    assert report.examples == 300
    assert env.measured.examples == 50
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(env).items())


def test_a_reset_clears_the_reward_state():
    """P54: no reward state of an episode is left in the next."""
    env = make_environment("digits", TINY | {"reward.mode": "escrow", "episode_length": 4})
    env.reset(seed=3)
    first = [env.step(GROW)[1], *(env.step(STAY)[1] for _ in range(2))]
    assert env.progress.rewards.accounts.slots
    env.reset(seed=3)
    assert env.ledger.entries == ()
    assert env.progress.rewards.accounts == Accounts((env.measured.accuracy_pp,))
    assert env.reports == (None, None, None)
    assert [env.step(GROW)[1], *(env.step(STAY)[1] for _ in range(2))] == first
