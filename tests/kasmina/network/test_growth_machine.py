"""Random histories of real networks: more than ten thousand steps, and a few hundred for the quick run."""

import pytest
from growth_machine import Growing, GrowingWithAdam
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

SLOWLY = (HealthCheck.too_slow, HealthCheck.data_too_large)


def run(machine, examples, steps):
    """Number of steps that were executed in ``examples`` random histories."""
    machine.executed = 0
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            phases=[Phase.generate],  # shrinking takes minutes; add Phase.shrink to look into a failure
            suppress_health_check=SLOWLY,
        ),
    )
    return machine.executed


@pytest.mark.parametrize("machine", [Growing, GrowingWithAdam])
def test_a_few_random_histories_keep_all_invariants(machine):
    assert run(machine, 3, 40) > 20


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("machine", [Growing, GrowingWithAdam])
def test_more_than_ten_thousand_random_steps_keep_all_invariants(machine):
    assert run(machine, 100, 60) > 5000
