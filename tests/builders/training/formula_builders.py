"""Steps of one slot, as inputs of the reward formulas."""

from dataclasses import replace
from random import Random

from hypothesis import strategies as st
from reference_inputs import Seed, StepInputs
from reference_step import step_reward

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.config.reward import REWARD_MODES, RewardConfig
from esper_ray.leyline.stages import STAGES, Stage
from esper_ray.simic.rewards.bonuses import Drip

GAMMA = 0.995
SHAPED = RewardConfig()
ESCROW = RewardConfig(mode="escrow")
STEP_MODES = tuple(mode for mode in REWARD_MODES if mode != "settlement")  # which has no reward for a single step
CONFIGS = {mode: RewardConfig(mode=mode) for mode in STEP_MODES}
PREDECESSORS = {
    Stage.GERMINATED: Stage.DORMANT,
    Stage.TRAINING: Stage.GERMINATED,
    Stage.BLENDING: Stage.TRAINING,
    Stage.HOLDING: Stage.BLENDING,
    Stage.FOSSILIZED: Stage.HOLDING,
}
OPERATIONS = tuple(LifecycleOp)


def seed(stage, ticks=4, age=25, **fields):
    """A seed that went through the lifecycle in order."""
    return Seed(stage, ticks, PREDECESSORS.get(stage, Stage.UNKNOWN), 6, age, **fields)


def step(operation=LifecycleOp.WAIT, seed=None, **fields):
    """Epoch 60 of 150 on a host of 100 000 parameters without overhead; ``fields`` override this."""
    usual = {"epoch": 60, "max_epochs": 150, "host_parameters": 100_000, "total_parameters": 100_000, "accuracy": 70.0}
    return StepInputs(operation=operation, seed=seed, **(usual | fields))


def pay(inputs, config=SHAPED):
    """The reward of ``inputs``."""
    return step_reward(inputs, config, GAMMA)


def points(low, high):
    return st.floats(low, high, allow_nan=False)


def hundredths(low, high):
    """Numbers with two decimals, so that some meet thresholds exactly."""
    return st.integers(low * 100, high * 100).map(lambda number: number / 100)


def maybe(values):
    return st.none() | values


ACCURACIES, CONTRIBUTIONS, CREDITS = hundredths(0, 100), hundredths(-5, 15), hundredths(0, 15)
MAYBE_ACCURACIES, MAYBE_CONTRIBUTIONS = maybe(ACCURACIES), maybe(CONTRIBUTIONS)
IMPROVEMENTS = {True: hundredths(-10, 15), False: st.none(), None: maybe(hundredths(-10, 15))}
DRIFTS, INTERACTIONS = maybe(hundredths(-20, 20)), hundredths(-5, 10)
CHANCE = st.integers(0, 2**32).map(Random)
# made once: hypothesis takes longer to make a strategy than to draw from it


@st.composite
def seeds(draw, stages=STAGES, epoch=150, measured=None):
    """Any seed of ``stages`` that is not older than ``epoch``; ``measured``: whether the joint improvement is."""
    return Seed(
        stage=draw(st.sampled_from(stages)),
        ticks=draw(st.integers(0, 40)),
        previous_stage=draw(st.sampled_from(STAGES)),
        previous_ticks=draw(st.integers(0, 40)),
        age=draw(st.integers(0, epoch)),
        improvement_since_stage=draw(DRIFTS),
        improvement=draw(IMPROVEMENTS[measured]),
        interaction_sum=draw(INTERACTIONS),
    )


@st.composite
def steps(draw, stages=STAGES, operations=OPERATIONS, contributions=MAYBE_CONTRIBUTIONS, seeded=None, last=None):
    """Any valid step: all operations, all stages, measured or not, with and without a seed.

    Args:
        seeded: ``None``: with and without a seed.
        last: ``None``: last and other steps.
    """
    max_epochs = draw(st.integers(2, 150))
    ends = draw(st.booleans()) if last is None else last
    epoch = max_epochs if ends else draw(st.integers(1, max_epochs - 1))
    contribution = draw(contributions)
    occupied = draw(st.booleans()) if seeded is None else seeded
    known = True if contribution is not None else None
    main = {
        "operation": draw(st.sampled_from(operations)),
        "epoch": epoch,
        "max_epochs": max_epochs,
        "seed": draw(seeds(stages, epoch, known)) if occupied else None,
        "contribution": contribution,
        "accuracy": draw(ACCURACIES),
        "accuracy_at_germination": draw(MAYBE_ACCURACIES),
        "stable_accuracy": draw(ACCURACIES),
        "escrow_credit": draw(CREDITS),
    }
    return StepInputs(**main, **_circumstances(draw(CHANCE)))


def _circumstances(chance):
    """What matters in some modes only: from one number, since each draw of hypothesis takes its time."""
    host = chance.choice([1, 150, 5_000, 100_000])
    drips = tuple(
        Drip(f"r0c{i}", f"s-{i}", chance.uniform(0, 6), chance.uniform(0, 0.2)) for i in range(chance.randint(0, 3))
    )
    return {
        "host_parameters": host,
        "total_parameters": host + chance.randint(-5, 10**6),
        "accuracy_change": chance.uniform(-100, 100),
        "committed_accuracy": chance.uniform(0, 100),
        "committed_parameters": chance.randint(0, 10**7),
        "live_seeds": chance.randint(0, 12),
        "committed_seeds": chance.randint(0, 12),
        "contributing_committed_seeds": chance.randint(0, 8),
        "effective_parameters": chance.choice([None, chance.uniform(0, 1e6)]),
        "squared_alpha_changes": chance.choice([0.0, chance.uniform(0, 0.5), chance.uniform(0, 20)]),
        "slot_id": chance.choice([None, "r0c0"]),
        "seed_id": chance.choice([None, "s-9"]),
        "drips": drips,
        "committed_contributions": {drip.seed_id: chance.uniform(-5, 15) for drip in drips},
    }


def with_seed(inputs, **fields):
    """``inputs`` with other properties of the seed."""
    return replace(inputs, seed=replace(inputs.seed, **fields))
