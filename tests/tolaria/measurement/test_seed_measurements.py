"""What is remembered about each seed from one step to the next."""

from dataclasses import replace

import pytest

from esper_ray.kasmina.lifecycle.reducer import SeedState
from esper_ray.leyline.actions import GerminationStyle
from esper_ray.leyline.records import UNMEASURED, Estimate, Measurement, Unmeasured
from esper_ray.leyline.stages import WITH_MODULE, Stage
from esper_ray.tolaria.measurement.gradients import GradientStatistics
from esper_ray.tolaria.measurement.seed_measurements import MeasuredSeeds

SLOT = "r0c1"
HEALTHY = GradientStatistics(norm=0.5, ratio=1.5, health=0.9, vanishing=False, exploding=False, finite=True)


def seed(stage=Stage.BLENDING, number=1):
    return SeedState(f"{SLOT}-{number}", "norm", GerminationStyle.LINEAR_ADD, 3, 1.0, stage=stage)


def updated(vitals, state, known=50.0, now=50.0, contribution=None, error=None, interaction=None, gradients=None):
    return vitals.updated(
        {SLOT: state},
        known,
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
    vitals = MeasuredSeeds()
    velocities = []
    for contribution in (2.0, 4.0, 3.0):
        vitals = updated(vitals, seed(), contribution=contribution)
        velocities.append(vitals.of(SLOT).contribution_velocity_pp)
    assert velocities[0] is None
    assert velocities[1:] == pytest.approx([0.6, 0.7 * 0.6 - 0.3])


def test_contribution_comes_with_its_error_and_interaction():
    seen = updated(MeasuredSeeds(), seed(), contribution=2.0, error=0.4, interaction=-1.0).of(SLOT)
    assert (seen.contribution_pp, seen.contribution_error_pp, seen.interaction_pp) == (2.0, 0.4, -1.0)


def test_freshness_is_unknown_until_measured_and_then_counts_epochs():
    vitals = updated(updated(MeasuredSeeds(), seed(Stage.TRAINING)), seed(Stage.TRAINING))
    assert vitals.of(SLOT).epochs_since_measured is None
    assert vitals.of(SLOT).contribution_pp is None
    ages = []
    for contribution in (1.0, None, None, 2.0):
        vitals = updated(vitals, seed(), contribution=contribution)
        ages.append(vitals.of(SLOT).epochs_since_measured)
    assert ages == [0, 1, 2, 0]


def test_an_unmeasured_epoch_keeps_the_last_contribution():
    vitals = updated(updated(MeasuredSeeds(), seed(), contribution=2.5), seed())
    assert vitals.of(SLOT).contribution_pp == 2.5


def test_improvement_is_counted_from_the_accuracy_before_the_stage_began():
    vitals = updated(MeasuredSeeds(), seed(Stage.TRAINING), known=40.0, now=43.0)
    assert vitals.of(SLOT).improvement_pp == 3.0
    vitals = updated(vitals, seed(Stage.TRAINING), known=43.0, now=47.0)
    assert vitals.of(SLOT).improvement_pp == 7.0
    vitals = updated(vitals, seed(Stage.BLENDING), known=47.0, now=46.0)
    assert vitals.of(SLOT).improvement_pp == -1.0


def test_a_new_seed_in_the_same_slot_starts_from_nothing():
    vitals = updated(MeasuredSeeds(), seed(), contribution=9.0, known=40.0, now=60.0, gradients=HEALTHY)
    fresh = updated(vitals, seed(number=2), known=60.0, now=61.0).of(SLOT)
    assert fresh == replace(UNMEASURED, improvement_pp=1.0)


def test_a_seed_that_returns_to_a_stage_gets_a_new_baseline():
    vitals = updated(MeasuredSeeds(), seed(Stage.BLENDING), known=40.0, now=50.0)
    vitals = updated(vitals, seed(Stage.HOLDING), known=50.0, now=55.0)
    vitals = updated(vitals, seed(Stage.BLENDING), known=55.0, now=57.0)
    assert vitals.of(SLOT).improvement_pp == 2.0


@pytest.mark.parametrize("stage", [Stage.PRUNED, Stage.EMBARGOED, Stage.RESETTING])
def test_nothing_is_remembered_about_a_removed_seed(stage):
    vitals = updated(MeasuredSeeds(), seed(), contribution=9.0)
    assert updated(vitals, seed(stage)).of(SLOT) is UNMEASURED


@pytest.mark.parametrize("stage", sorted(WITH_MODULE))
def test_every_stage_with_a_module_is_followed(stage):
    assert updated(MeasuredSeeds(), seed(stage), contribution=1.0).of(SLOT).contribution_pp == 1.0


def test_gradient_health_shifts_to_the_previous_one():
    vitals = updated(MeasuredSeeds(), seed(Stage.TRAINING), gradients=HEALTHY)
    seen = vitals.of(SLOT)
    assert (seen.gradient_norm, seen.gradient_ratio, seen.gradient_health) == (0.5, 1.5, 0.9)
    assert (seen.vanishing, seen.exploding, seen.finite) == (False, False, True)
    assert seen.previous_gradient_health is None
    seen = updated(vitals, seed(Stage.TRAINING), gradients=replace(HEALTHY, health=0.2)).of(SLOT)
    assert (seen.gradient_health, seen.previous_gradient_health) == (0.2, 0.9)


def test_an_update_leaves_the_old_vitals_as_they_were():
    """A snapshot of the vitals is a reference."""
    old = updated(MeasuredSeeds(), seed(), contribution=1.0)
    kept = old.by_slot()
    updated(old, seed(), contribution=5.0)
    assert old.by_slot() == kept
    assert old.of(SLOT).contribution_pp == 1.0
