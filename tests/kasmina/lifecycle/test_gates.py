"""Gates G0 to G5 with strict and permissive rules."""

import pytest

from esper_ray.kasmina.lifecycle.alpha import AlphaController
from esper_ray.kasmina.lifecycle.gates import Check, Gate, GateRules, evaluate_gate
from esper_ray.leyline.actions import AlphaCurve
from esper_ray.leyline.records import UNMEASURED, SeedMeasurements
from esper_ray.leyline.stages import Stage

STRICT, PERMISSIVE = GateRules(strict=True), GateRules()
FULL = AlphaController(alpha=1.0, target=1.0)
PARKED = AlphaController(alpha=0.7, target=0.7)
RAMPING = AlphaController().retargeted(1.0, 3, AlphaCurve.LINEAR, 12.0).ticked()


def g2(rules, ticks=10, **measured):
    return evaluate_gate(Stage.BLENDING, Stage.TRAINING, ticks, AlphaController(), SeedMeasurements(**measured), rules)


def g3(rules, alpha, ticks=10):
    return evaluate_gate(Stage.HOLDING, Stage.BLENDING, ticks, alpha, UNMEASURED, rules)


def g5(rules, **measured):
    return evaluate_gate(Stage.FOSSILIZED, Stage.HOLDING, 0, FULL, SeedMeasurements(**measured), rules)


def failed(result):
    return [check.name for check in result.checks if not check.passed]


def test_gate_numbers_are_stable_and_four_is_reserved():
    assert {gate.name: int(gate) for gate in Gate} == {"G0": 0, "G1": 1, "G2": 2, "G3": 3, "G5": 5}


@pytest.mark.parametrize(
    ("target", "gate"),
    [("GERMINATED", "G0"), ("TRAINING", "G1"), ("BLENDING", "G2"), ("HOLDING", "G3"), ("FOSSILIZED", "G5")],
)
def test_each_stage_has_its_gate(target, gate):
    result = evaluate_gate(Stage[target], Stage.DORMANT, 0, FULL, UNMEASURED, PERMISSIVE)
    assert (result.gate, result.target) == (Gate[gate], Stage[target])
    assert len(result.checks) > 0


@pytest.mark.parametrize("target", ["UNKNOWN", "DORMANT", "PRUNED", "EMBARGOED", "RESETTING"])
def test_no_gate_leads_to_the_other_stages(target):
    with pytest.raises(ValueError, match=f"no gate leads to {target}"):
        evaluate_gate(Stage[target], Stage.HOLDING, 0, FULL, UNMEASURED, PERMISSIVE)


@pytest.mark.parametrize("stage", Stage)
def test_g0_needs_an_empty_slot_and_g1_a_germinated_seed(stage):
    opened = [
        evaluate_gate(target, stage, 0, AlphaController(), UNMEASURED, PERMISSIVE).passed
        for target in (Stage.GERMINATED, Stage.TRAINING)
    ]
    assert opened == [stage in (Stage.DORMANT, Stage.UNKNOWN), stage is Stage.GERMINATED]


def test_a_check_carries_value_threshold_and_margin():
    check = Check("x", 2.5, 1.0)
    assert (check.value, check.threshold, check.margin, check.passed) == (2.5, 1.0, 1.5, True)


def test_comparisons_are_inclusive_unless_strict():
    assert Check("x", 1.0, 1.0).passed
    assert not Check("x", 1.0, 1.0, strictly=True).passed
    assert Check("x", 1.0001, 1.0, strictly=True).passed


def test_an_unmeasured_value_fails_even_below_zero_and_has_no_margin():
    check = Check("x", None, -5.0)
    assert not check.passed
    assert check.margin is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("threshold", [-5.0, 0.0, 5.0])
@pytest.mark.parametrize("strictly", [True, False])
def test_a_value_that_is_not_finite_fails_with_its_value(value, threshold, strictly):
    check = Check("x", value, threshold, strictly)
    assert not check.passed
    assert check.message == f"x: {value}, needed a finite value"


NOT_FINITE = [float("nan"), float("inf")]


@pytest.mark.parametrize("value", NOT_FINITE)
def test_every_gate_refuses_each_measurement_that_is_not_finite(value):
    """One measurement of a seed that passes otherwise is replaced at a time."""
    good = {"improvement_pp": 1.0, "gradient_ratio": 1.0, "exploding": False, "gradient_health": 1.0}
    assert g2(STRICT, **good).passed
    assert g2(PERMISSIVE, **good).passed
    assert failed(g2(STRICT, **good | {"improvement_pp": value})) == ["improvement (pp)"]
    assert failed(g2(STRICT, **good | {"gradient_ratio": value})) == ["gradient ratio"]
    assert failed(g2(PERMISSIVE, **good | {"gradient_health": value})) == ["gradient health"]
    for rules in (STRICT, PERMISSIVE):
        assert failed(g5(rules, finite=True, contribution_pp=value)) == ["contribution (pp)"]
        assert failed(g3(rules, AlphaController(alpha=value, target=value)))


@pytest.mark.parametrize(
    ("ticks", "improvement", "ratio", "missing"),
    [
        (10, 0.5, 0.1, []),
        (9, 0.5, 0.1, ["epochs in training"]),
        (10, 0.49, 0.1, ["improvement (pp)"]),
        (10, 0.5, 0.099, ["gradient ratio"]),
        (10, None, 0.1, ["improvement (pp)"]),
        (10, 0.5, None, ["gradient ratio"]),
        (0, -3.0, 0.0, ["epochs in training", "improvement (pp)", "gradient ratio"]),
    ],
)
def test_strict_g2_needs_dwell_improvement_and_gradient_ratio(ticks, improvement, ratio, missing):
    result = g2(STRICT, ticks, improvement_pp=improvement, gradient_ratio=ratio)
    assert failed(result) == missing
    assert result.passed is (missing == [])


@pytest.mark.parametrize(
    ("ticks", "exploding", "health", "missing"),
    [
        (10, False, 0.7, []),
        (4, False, 1.0, ["epochs in training"]),
        (10, True, 1.0, ["gradients do not explode"]),
        (10, None, 1.0, ["gradients do not explode"]),
        (10, False, 0.69, ["gradient health"]),
        (10, False, None, ["gradient health"]),
    ],
)
def test_permissive_g2_needs_dwell_and_healthy_gradients(ticks, exploding, health, missing):
    result = g2(PERMISSIVE, ticks, exploding=exploding, gradient_health=health)
    assert failed(result) == missing
    assert result.passed is (missing == [])


def test_permissive_g2_ignores_improvement_and_strict_g2_ignores_health():
    assert g2(PERMISSIVE, exploding=False, gradient_health=1.0, improvement_pp=-20.0).passed
    assert g2(STRICT, improvement_pp=1.0, gradient_ratio=1.0, exploding=True, gradient_health=0.0).passed


@pytest.mark.parametrize(
    ("alpha", "ticks", "permissive", "strict"),
    [
        (FULL, 10, [], []),
        (FULL, 9, [], ["epochs in blending"]),
        (PARKED, 10, ["amplitude target"], ["amplitude target"]),
        (RAMPING, 10, ["amplitude rests at target"], ["amplitude rests at target"]),
    ],
)
def test_g3_needs_full_amplitude_at_rest_and_if_strict_dwell(alpha, ticks, permissive, strict):
    assert failed(g3(PERMISSIVE, alpha, ticks)) == permissive
    assert failed(g3(STRICT, alpha, ticks)) == strict


@pytest.mark.parametrize(("contribution", "open_"), [(1.0, True), (0.999, False), (0.0, False), (None, False)])
def test_strict_g5_needs_a_contribution_of_the_threshold(contribution, open_):
    assert g5(STRICT, finite=True, contribution_pp=contribution).passed is open_


@pytest.mark.parametrize(
    ("contribution", "open_"), [(0.001, True), (0.0, False), (-0.0, False), (-1.0, False), (None, False)]
)
def test_permissive_g5_needs_a_measured_contribution_above_zero(contribution, open_):
    assert g5(PERMISSIVE, finite=True, contribution_pp=contribution).passed is open_


@pytest.mark.parametrize("rules", [STRICT, PERMISSIVE])
@pytest.mark.parametrize("finite", [False, None])
def test_g5_needs_a_seed_measured_as_finite(rules, finite):
    assert failed(g5(rules, finite=finite, contribution_pp=5.0)) == ["seed is finite"]


def test_thresholds_come_from_the_rules():
    rules = GateRules(min_training_epochs=2, min_gradient_health=0.25, min_contribution_pp=3.0, strict=False)
    assert g2(rules, 2, exploding=False, gradient_health=0.25).passed
    assert not g2(rules, 1, exploding=False, gradient_health=0.25).passed
    strict = GateRules(True, 3, 4, 2.0, 0.5, 0.9, 3.0)
    assert [check.threshold for check in g2(strict).checks] == [3, 2.0, 0.5]
    assert g3(strict, FULL, 4).passed
    assert not g3(strict, FULL, 3).passed
    assert g5(strict, finite=True, contribution_pp=3.0).passed
    assert not g5(strict, finite=True, contribution_pp=2.9).passed


def test_the_message_names_each_failed_check_with_value_and_threshold():
    assert g2(PERMISSIVE, 4, exploding=False).message == (
        "epochs in training: 4, needed at least 10; gradient health: not measured yet"
    )
    assert g5(PERMISSIVE, finite=True, contribution_pp=-0.5).message == "contribution (pp): -0.5, needed above 0"
    assert g5(PERMISSIVE, finite=True, contribution_pp=0.5).message == ""


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (g2(PERMISSIVE, exploding=True, gradient_health=1.0), "gradients explode"),
        (g2(PERMISSIVE, exploding=None, gradient_health=1.0), "gradients do not explode: not measured yet"),
        (g3(PERMISSIVE, RAMPING), "amplitude is still moving to its target"),
        (g3(PERMISSIVE, PARKED), "amplitude target: 0.7, needed at least 1"),
        (g5(PERMISSIVE, finite=False, contribution_pp=1.0), "parameters or gradients of the seed are not finite"),
    ],
)
def test_a_failed_condition_is_described_in_words(result, message):
    assert result.message == message


def test_messages_of_g0_and_g1_name_the_stage_of_the_seed():
    for target, message in [
        (Stage.GERMINATED, "the slot holds a seed in HOLDING"),
        (Stage.TRAINING, "the seed is in HOLDING, not in GERMINATED"),
    ]:
        assert evaluate_gate(target, Stage.HOLDING, 0, FULL, UNMEASURED, PERMISSIVE).message == message
