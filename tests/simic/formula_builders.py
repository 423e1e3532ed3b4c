"""Steps of one slot, as the reward formulas see them."""

from dataclasses import replace

from hypothesis import strategies as st

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.reward_config import RewardConfig
from esper_ray.leyline.stages import STAGES, Stage
from esper_ray.simic.rewards.bonuses import Drip
from esper_ray.simic.rewards.step import Seed, StepInputs, step_reward

GAMMA = 0.995
SHAPED = RewardConfig()
ESCROW = RewardConfig(mode="escrow")
STEP_MODES = ("shaped", "simplified", "basic", "basic_plus", "sparse", "minimal", "escrow")
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
    """Epoch 60 of 150 on a host of 100 000 parameters without overhead, unless told."""
    usual = {"epoch": 60, "max_epochs": 150, "host_parameters": 100_000, "total_parameters": 100_000, "accuracy": 70.0}
    return StepInputs(operation=operation, seed=seed, **(usual | fields))


def pay(inputs, config=SHAPED):
    """The reward of ``inputs``."""
    return step_reward(inputs, config, GAMMA)


def points(low, high):
    return st.floats(low, high, allow_nan=False)


def maybe(values):
    return st.none() | values


@st.composite
def seeds(draw, stages=STAGES, epoch=150, measured=None):
    """Any seed of ``stages`` that is not older than ``epoch``; ``measured``: whether the joint improvement is."""
    improvement = {True: points(-10, 15), False: st.none(), None: maybe(points(-10, 15))}[measured]
    return Seed(
        stage=draw(st.sampled_from(stages)),
        ticks=draw(st.integers(0, 40)),
        previous_stage=draw(st.sampled_from(STAGES)),
        previous_ticks=draw(st.integers(0, 40)),
        age=draw(st.integers(0, epoch)),
        improvement_since_stage=draw(maybe(points(-20, 20))),
        improvement=draw(improvement),
        interaction_sum=draw(points(-5, 10)),
    )


@st.composite
def steps(draw, stages=STAGES, operations=OPERATIONS, contributions=None, seeded=None, last=None):
    """Any valid step: all operations, all stages, measured or not, with and without a seed.

    Args:
        contributions: ``None``: unmeasured ones too.
        seeded: ``None``: with and without a seed.
        last: ``None``: last and other steps.
    """
    max_epochs = draw(st.integers(2, 150))
    ends = draw(st.booleans()) if last is None else last
    epoch = max_epochs if ends else draw(st.integers(1, max_epochs - 1))
    contribution = draw(maybe(points(-5, 15)) if contributions is None else contributions)
    occupied = draw(st.booleans()) if seeded is None else seeded
    known = True if contribution is not None else None
    host = draw(st.sampled_from([1, 150, 5_000, 100_000]))
    drips = tuple(
        Drip(f"r0c{i}", f"s-{i}", draw(points(0, 6)), draw(points(0, 0.2))) for i in range(draw(st.integers(0, 3)))
    )
    return StepInputs(
        operation=draw(st.sampled_from(operations)),
        epoch=epoch,
        max_epochs=max_epochs,
        host_parameters=host,
        total_parameters=host + draw(st.integers(-5, 10**6)),
        accuracy=draw(points(0, 100)),
        seed=draw(seeds(stages, epoch, known)) if occupied else None,
        contribution=contribution,
        accuracy_at_germination=draw(maybe(points(0, 100))),
        accuracy_change=draw(points(-100, 100)),
        committed_accuracy=draw(points(0, 100)),
        stable_accuracy=draw(points(0, 100)),
        committed_parameters=draw(st.integers(0, 10**7)),
        live_seeds=draw(st.integers(0, 12)),
        committed_seeds=draw(st.integers(0, 12)),
        contributing_committed_seeds=draw(st.integers(0, 8)),
        effective_parameters=draw(maybe(points(0, 1e6))),
        squared_alpha_changes=draw(points(0, 20)),
        escrow_credit=draw(points(0, 15)),
        slot_id=draw(st.sampled_from([None, "r0c0"])),
        seed_id=draw(st.sampled_from([None, "s-9"])),
        drips=drips,
        committed_contributions={drip.seed_id: draw(points(-5, 15)) for drip in drips},
    )


def with_seed(inputs, **fields):
    """``inputs`` with other properties of the seed."""
    return replace(inputs, seed=replace(inputs.seed, **fields))
