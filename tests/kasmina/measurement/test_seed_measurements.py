"""Measurements of each seed over the steps of an episode."""

from dataclasses import replace

import pytest

from esper_ray.kasmina.lifecycle.alpha import AlphaController
from esper_ray.kasmina.lifecycle.gates import GateRules, evaluate_gate
from esper_ray.kasmina.lifecycle.reducer import SeedState
from esper_ray.kasmina.measurement.gradients import GradientStatistics
from esper_ray.kasmina.measurement.seed_measurements import MeasuredSeeds
from esper_ray.leyline.actions import AlphaMode, GerminationStyle
from esper_ray.leyline.records import UNMEASURED, Estimate, Measurement, Unmeasured
from esper_ray.leyline.stages import WITH_MODULE, Stage

SLOT = "r0c1"
HEALTHY = GradientStatistics(norm=0.5, ratio=1.5, health=0.9, vanishing=False, exploding=False, finite=True)


def seed(stage=Stage.BLENDING, number=1):
    return SeedState(f"{SLOT}-{number}", "norm", GerminationStyle.LINEAR_ADD, 3, 1.0, stage=stage)


def updated(measured, state, before=50.0, now=50.0, contribution=None, error=None, interaction=None, gradients=None):
    return measured.updated(
        {SLOT: state},
        before,
        Measurement(1.0, now, 400),
        {} if gradients is None else {SLOT: gradients},
        {SLOT: Unmeasured(())} if contribution is None else {SLOT: Estimate(contribution, error)},
        {} if interaction is None else {SLOT: interaction},
    )


def test_an_empty_slot_is_unmeasured():
    assert MeasuredSeeds().of(SLOT) is UNMEASURED
    assert updated(MeasuredSeeds(), None).by_slot() == {}


def test_contribution_velocity_by_hand():
    """v <- 0.7 v + 0.3 (c - c_prev), from the second measurement on."""
    measured = MeasuredSeeds()
    velocities = []
    for contribution in (2.0, 4.0, 3.0):
        measured = updated(measured, seed(), contribution=contribution)
        velocities.append(measured.of(SLOT).contribution_velocity_pp)
    assert velocities[0] is None
    assert velocities[1:] == pytest.approx([0.6, 0.7 * 0.6 - 0.3])


def test_contribution_has_error_and_interaction():
    measurements = updated(MeasuredSeeds(), seed(), contribution=2.0, error=0.4, interaction=-1.0).of(SLOT)
    assert (measurements.contribution_pp, measurements.contribution_error_pp, measurements.interaction_pp) == (
        2.0,
        0.4,
        -1.0,
    )


def test_epochs_since_measured_is_none_until_measured_and_then_counts():
    measured = updated(updated(MeasuredSeeds(), seed(Stage.TRAINING)), seed(Stage.TRAINING))
    assert measured.of(SLOT).epochs_since_measured is None
    assert measured.of(SLOT).contribution_pp is None
    ages = []
    for contribution in (1.0, None, None, 2.0):
        measured = updated(measured, seed(), contribution=contribution)
        ages.append(measured.of(SLOT).epochs_since_measured)
    assert ages == [0, 1, 2, 0]


def test_an_unmeasured_epoch_keeps_the_last_contribution():
    measured = updated(updated(MeasuredSeeds(), seed(), contribution=2.5), seed())
    assert measured.of(SLOT).contribution_pp == 2.5


def test_improvement_is_counted_from_the_accuracy_before_the_stage_began():
    measured = updated(MeasuredSeeds(), seed(Stage.TRAINING), before=40.0, now=43.0)
    assert measured.of(SLOT).improvement_pp == 3.0
    measured = updated(measured, seed(Stage.TRAINING), before=43.0, now=47.0)
    assert measured.of(SLOT).improvement_pp == 7.0
    measured = updated(measured, seed(Stage.BLENDING), before=47.0, now=46.0)
    assert measured.of(SLOT).improvement_pp == -1.0


def test_a_new_seed_in_the_same_slot_starts_unmeasured():
    measured = updated(MeasuredSeeds(), seed(), contribution=9.0, before=40.0, now=60.0, gradients=HEALTHY)
    fresh = updated(measured, seed(number=2), before=60.0, now=61.0).of(SLOT)
    assert fresh == replace(UNMEASURED, improvement_pp=1.0)


def test_a_seed_that_returns_to_a_stage_gets_a_new_baseline():
    measured = updated(MeasuredSeeds(), seed(Stage.BLENDING), before=40.0, now=50.0)
    measured = updated(measured, seed(Stage.HOLDING), before=50.0, now=55.0)
    measured = updated(measured, seed(Stage.BLENDING), before=55.0, now=57.0)
    assert measured.of(SLOT).improvement_pp == 2.0


@pytest.mark.parametrize("stage", [Stage.PRUNED, Stage.EMBARGOED, Stage.RESETTING])
def test_a_removed_seed_is_unmeasured(stage):
    measured = updated(MeasuredSeeds(), seed(), contribution=9.0)
    assert updated(measured, seed(stage)).of(SLOT) is UNMEASURED


@pytest.mark.parametrize("stage", sorted(WITH_MODULE))
def test_every_stage_with_a_module_is_measured(stage):
    assert updated(MeasuredSeeds(), seed(stage), contribution=1.0).of(SLOT).contribution_pp == 1.0


def test_an_update_moves_gradient_health_to_previous_gradient_health():
    measured = updated(MeasuredSeeds(), seed(Stage.TRAINING), gradients=HEALTHY)
    measurements = measured.of(SLOT)
    assert (measurements.gradient_norm, measurements.gradient_ratio, measurements.gradient_health) == (0.5, 1.5, 0.9)
    assert (measurements.vanishing, measurements.exploding, measurements.finite) == (False, False, True)
    assert measurements.previous_gradient_health is None
    measurements = updated(measured, seed(Stage.TRAINING), gradients=replace(HEALTHY, health=0.2)).of(SLOT)
    assert (measurements.gradient_health, measurements.previous_gradient_health) == (0.2, 0.9)


@pytest.mark.parametrize("stage", [Stage.TRAINING, Stage.BLENDING, Stage.HOLDING])
def test_a_learning_seed_without_a_gradient_is_unmeasured_and_passes_no_gate(stage):
    measured = updated(MeasuredSeeds(), seed(stage), gradients=HEALTHY, contribution=9.0)
    lost = updated(measured, seed(stage), contribution=9.0).of(SLOT)
    assert (lost.gradient_norm, lost.gradient_ratio, lost.gradient_health) == (None, None, None)
    assert (lost.vanishing, lost.exploding, lost.finite) == (None, None, None)
    assert lost.previous_gradient_health == 0.9
    amplitude = AlphaController(alpha=1.0, target=1.0)
    for strict in (True, False):
        rules = GateRules(strict=strict, min_training_improvement_pp=0.0)
        assert not evaluate_gate(Stage.BLENDING, Stage.TRAINING, 99, amplitude, lost, rules).passed
        assert not evaluate_gate(Stage.FOSSILIZED, Stage.HOLDING, 99, amplitude, lost, rules).passed


@pytest.mark.parametrize(
    "resting", [seed(Stage.FOSSILIZED), replace(seed(Stage.HOLDING), alpha=AlphaController(mode=AlphaMode.DOWN))]
)
def test_a_resting_seed_keeps_its_last_gradients(resting):
    measured = updated(MeasuredSeeds(), replace(resting, alpha=AlphaController()), gradients=HEALTHY)
    kept = updated(measured, resting).of(SLOT)
    assert (kept.gradient_norm, kept.gradient_health, kept.finite) == (0.5, 0.9, True)
    assert kept.previous_gradient_health == 0.9


def test_an_update_does_not_change_the_old_object():
    """A snapshot holds a reference to the old object."""
    old = updated(MeasuredSeeds(), seed(), contribution=1.0)
    before = old.by_slot()
    updated(old, seed(), contribution=5.0)
    assert old.by_slot() == before
    assert old.of(SLOT).contribution_pp == 1.0
