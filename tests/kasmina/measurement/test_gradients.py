"""Gradient statistics of seeds, some of whose tensors have no gradient or one that is not finite."""

import math

import pytest
import torch
from torch import nn

from esper_ray.kasmina.lifecycle.alpha import AlphaController
from esper_ray.kasmina.lifecycle.gates import GateRules, evaluate_gate
from esper_ray.kasmina.measurement.gradients import (
    clipped_norms,
    epoch_statistics,
    gradient_statistics,
    host_gradient_rms,
)
from esper_ray.kasmina.measurement.seed_measurements import _with_gradients
from esper_ray.leyline.records import UNMEASURED
from esper_ray.leyline.stages import Stage


def tensor(gradient, size=2):
    parameter = nn.Parameter(torch.zeros(size))
    parameter.grad = None if gradient is None else torch.tensor(gradient)
    return parameter


# Pure functions, by hand


def test_tensors_without_a_gradient_take_no_part_in_clipping():
    group = [tensor([3.0, 0.0]), tensor(None), tensor([0.0, -4.0])]
    norms = clipped_norms(group, 2.5)
    assert norms.tolist() == [[3.0, 0.0, 4.0, 5.0], [1.0, 0.0, 1.0, 1.0]]
    assert group[0].grad.tolist() == pytest.approx([1.5, 0.0])
    assert group[2].grad.tolist() == pytest.approx([0.0, -2.0])
    assert group[1].grad is None


def test_a_group_without_any_gradient_has_no_norm_and_counts_no_step():
    assert clipped_norms([tensor(None), tensor(None)], 1.0).tolist() == [[0.0] * 3, [0.0] * 3]
    assert epoch_statistics([0.0] * 3, [0.0] * 3, [2, 2], 1.0) is None


def test_means_are_over_the_steps_with_a_gradient():
    """Tensor 0 has norms 1 and 3, tensor 1 has 2 in one step of the two, tensor 2 rests; all: 4 and 6."""
    seen = epoch_statistics([4.0, 2.0, 0.0, 10.0], [2.0, 1.0, 0.0, 2.0], [9, 16, 1000], host_rms=0.5)
    assert seen.norm == 5.0
    assert seen.ratio == pytest.approx(5.0 / 5.0 / 0.5)
    assert (seen.health, seen.vanishing, seen.exploding, seen.finite) == (1.0, False, False, True)


def test_a_gradient_of_exactly_zero_vanishes_and_is_finite():
    seen = gradient_statistics([0.0, 0.0], 0.0, 4, 0.5)
    assert (seen.norm, seen.ratio, seen.health) == (0.0, 0.0, 0.5)
    assert (seen.vanishing, seen.exploding, seen.finite) == (True, False, True)


def test_the_rms_of_a_host_without_gradient_is_zero():
    assert host_gradient_rms(6.0, 9) == 2.0
    assert host_gradient_rms(0.0, 0) == 0.0


BROKEN = {
    "infinite": ([1.0, math.inf], math.inf, 1.0),
    "not a number": ([math.nan, 1.0], math.nan, 1.0),
    "overflow of all": ([3e19, 3e19], math.inf, 1.0),
    "infinite host": ([1.0, 1.0], 1.4, math.inf),
    "host not a number": ([1.0, 1.0], 1.4, math.nan),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("strict", [True, False])
def test_gates_refuse_gradients_that_are_not_finite(case, strict):
    seen = gradient_statistics(*BROKEN[case][:2], 4, BROKEN[case][2])
    measured = _with_gradients(UNMEASURED, seen, learns=True)
    rules = GateRules(strict=strict, min_training_improvement_pp=0.0)
    result = evaluate_gate(Stage.BLENDING, Stage.TRAINING, 99, AlphaController(), measured, rules)
    ratio = next((check for check in result.checks if check.name == "gradient ratio"), None)
    assert ratio is None or not ratio.passed
    if "host" not in case:
        assert not result.passed
        assert not seen.finite
        assert (seen.health, seen.exploding) == (0.0, True)
