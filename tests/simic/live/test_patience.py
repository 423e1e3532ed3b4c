"""P59: delaying the commitment of a seed with constant contribution never increases the return."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transition_builders import EMPTY, discounted, make_engine, report, table, transition

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.config.reward import REWARD_MODES
from esper_ray.leyline.stages import Stage

pytestmark = pytest.mark.integration

STEPS, HELD_FROM = 40, 10


def seed_at(step, commit, gain):
    """The seed at the beginning of ``step``: held after ``HELD_FROM``, committed after ``commit``."""
    if step <= HELD_FROM:
        return report("r0c0", Stage.BLENDING, step, alpha=0.5, contribution=gain, age=step + 10)
    if step <= commit:
        return report("r0c0", Stage.HOLDING, step - HELD_FROM, alpha=1.0, contribution=gain, age=step + 10)
    return report("r0c0", Stage.FOSSILIZED, step - commit, alpha=1.0, contribution=gain, age=step + 10)


def ledger_of_commitment(mode, commit, gain, host, family="contribution"):
    """Ledger of an episode in which a seed of ``gain`` points is committed at step ``commit``."""
    engine = make_engine(mode, first=host, control=(host,) * (STEPS + 1), family=family)
    measured = table({(): host, ("r0c0",): host + gain}, loss=1.0)
    for step in range(STEPS):
        operation = LifecycleOp.FOSSILIZE if step == commit else LifecycleOp.WAIT
        before = EMPTY if step == 0 else (seed_at(step, commit, gain), None, None)
        after = (seed_at(step + 1, commit, gain), None, None)
        last = step == STEPS - 1
        engine.settle(
            transition(
                step=step,
                max_steps=STEPS,
                operation=operation,
                before=before,
                after=after,
                known=measured,
                measured=measured,
                truncated=last,
            )
        )
    return engine.ledger


@pytest.mark.parametrize("mode", [*REWARD_MODES, "loss"])
@settings(max_examples=40, deadline=None)
@given(
    commit=st.integers(HELD_FROM + 5, STEPS - 2),
    delay=st.integers(1, 30),
    gain=st.floats(1.0, 60.0),
    host=st.floats(5, 40),
)
def test_delaying_a_good_commitment_never_increases_the_return(mode, commit, delay, gain, host):
    """The seed was held long enough for full pay, and its contribution and the host stay constant.

    If a seed improves while it is held, all modes except ``settlement`` pay the improved seed more.
    """
    family = "loss" if mode == "loss" else "contribution"
    name = "shaped" if mode == "loss" else mode
    soon = discounted(ledger_of_commitment(name, commit, gain, host, family), STEPS)
    late = discounted(ledger_of_commitment(name, commit + delay, gain, host, family), STEPS)
    assert late <= soon + 1e-9
