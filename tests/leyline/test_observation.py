"""Observation vector: layout, scaling, sentinels and refusal of nonfinite values."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from leyline_builders import make_report, make_signals, reports_of

from esper_ray.leyline import observation
from esper_ray.leyline.actions import AlphaMode, BlendOperator, Blueprint
from esper_ray.leyline.observation import blueprint_indices, observation_names, observation_size, observe, symlog
from esper_ray.leyline.records import UNMEASURED, SeedMeasurements
from esper_ray.leyline.stages import Stage

MEASURED = SeedMeasurements(
    contribution_pp=2.5,
    contribution_velocity_pp=-1.5,
    interaction_pp=30.0,
    epochs_since_measured=5,
    gradient_norm=1.5,
    gradient_health=0.9,
    previous_gradient_health=0.8,
    vanishing=True,
    exploding=False,
    finite=True,
)
BLENDING = make_report(
    Stage.BLENDING,
    AlphaMode.UP,
    age=16,
    ticks_in_stage=4,
    alpha=0.7699,
    alpha_target=1.0,
    alpha_velocity=0.2,
    ramp_total=5,
    ramp_done=3,
    operator=BlendOperator.MULTIPLY,
    tempo=8,
    blueprint=Blueprint.BOTTLENECK,
    measured=MEASURED,
)


def near(values):
    return pytest.approx(values, abs=6e-6)


def slot_of(report, max_epochs=100):
    return observe(make_signals(max_epochs=max_epochs), (report,))[23:].tolist()


def test_base_block_index_by_index():
    signals = make_signals(last_op=3, last_success=False, loss_history=(6.5, 1.5), accuracy_history_pp=(10.0, 85.0))
    reports = tuple(
        make_report(stage) for stage in (Stage.TRAINING, Stage.BLENDING, Stage.HOLDING, Stage.FOSSILIZED, Stage.PRUNED)
    )
    assert observe(signals, reports)[:23].tolist() == near(
        [
            *(0.5, 0.13090, 0.85),  # epoch 50 of 100, ln 2.5 / 7, 85 %
            *(-1.0, -1.0, -1.0, 0.28784, 0.13090),  # ln 7.5 / 7 and ln 2.5 / 7
            *(-1.0, -1.0, -1.0, 0.1, 0.85),
            *(0.2, 0.2, 0.4),  # training, blending, holding and fossilized of five slots
            0.0,  # success
            *(0.0, 0.0, 0.0, 1.0, 0.0, 0.0),  # PRUNE
        ]
    )


def test_slot_block_index_by_index():
    assert slot_of(BLENDING) == near(
        [
            1.0,
            *(0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0),
            *(0.7699, 0.25, -0.15, 0.66667, 1.0, 0.5),  # alpha, contribution, velocity, tempo, target, mode
            *(0.05, 0.03, 0.02, 0.2, 0.5, 1.0),  # ramp total, done, left, slope, operator, interaction (clipped)
            *(0.13090, 0.9, 1.0, 0.0, 0.8),  # gradient norm, health, vanishing, exploding, health before
            *(0.04, 0.97525, 0.16),  # clock, freshness, age
        ]
    )


def test_an_unmeasured_seed_has_zeros_and_two_sentinels():
    block = slot_of(make_report(Stage.GERMINATED, age=0, tempo=3))
    expected = [0.0] * 31
    expected[0] = expected[3] = 1.0
    expected[14] = 0.25
    expected[27] = expected[29] = -1.0
    assert block == near(expected)


def test_histories_longer_than_five_are_cut_to_the_latest_five():
    signals = make_signals(
        loss_history=(9.0, 0.0, 0.0, 0.0, 0.0, 1.5), accuracy_history_pp=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    )
    vector = observe(signals, (None,))
    assert vector[3:8].tolist() == near([0.0, 0.0, 0.0, 0.0, 0.13090])
    assert vector[8:13].tolist() == near([0.02, 0.03, 0.04, 0.05, 0.06])


def test_an_empty_history_is_padded_with_minus_one():
    assert observe(make_signals(loss_history=(), accuracy_history_pp=()), (None,))[3:13].tolist() == [-1.0] * 10


@pytest.mark.parametrize(("slots", "size"), [(1, 54), (2, 85), (3, 116), (5, 178), (10, 333)])
def test_the_vector_has_23_numbers_and_31_per_slot(slots, size):
    vector = observe(make_signals(), (None,) * slots)
    assert observation_size(slots) == size
    assert vector.shape == (size,)
    assert vector.dtype == np.float32


def test_an_empty_slot_is_all_zeros_with_blueprint_minus_one():
    reports = (None, BLENDING, None)
    vector = observe(make_signals(), reports)
    assert not vector[23:54].any()
    assert not vector[85:116].any()
    assert vector[54:85].tolist() == slot_of(BLENDING)
    assert blueprint_indices(reports).tolist() == [-1, 5, -1]
    assert blueprint_indices(reports).dtype == np.int64


@pytest.mark.parametrize(
    ("stage", "position"), [(Stage.PRUNED, 8), (Stage.EMBARGOED, 9), (Stage.RESETTING, 10)], ids=str
)
def test_a_slot_in_cooldown_has_stage_and_ticks_only(stage, position):
    report = dataclasses.replace(BLENDING, stage=stage, ticks_in_stage=2)
    expected = [0.0] * 31
    expected[0] = expected[position] = 1.0
    expected[27] = expected[29] = -1.0
    expected[28], expected[30] = 0.02, 0.16
    assert slot_of(report) == near(expected)
    assert slot_of(report) == slot_of(dataclasses.replace(report, measured=UNMEASURED))
    assert blueprint_indices((report,)).tolist() == [5]


@pytest.mark.parametrize(("mode", "code"), [(AlphaMode.HOLD, 0.0), (AlphaMode.UP, 0.5), (AlphaMode.DOWN, 1.0)])
def test_the_amplitude_mode_has_its_code(mode, code):
    assert slot_of(make_report(Stage.BLENDING, mode))[16] == code


@pytest.mark.parametrize(("operator", "code"), [("ADD", 0.0), ("MULTIPLY", 0.5), ("GATE", 1.0)])
def test_the_operator_has_its_code(operator, code):
    assert slot_of(make_report(Stage.BLENDING, operator=BlendOperator[operator]))[21] == code


@pytest.mark.parametrize(("value", "shown"), [(9.9, 0.99), (10.0, 1.0), (55.0, 1.0), (-55.0, -1.0), (0.0, 0.0)])
def test_percentage_points_are_divided_by_ten_and_clipped_to_one(value, shown):
    measured = SeedMeasurements(contribution_pp=value, contribution_velocity_pp=value, interaction_pp=value)
    block = slot_of(make_report(Stage.HOLDING, measured=measured))
    assert [block[12], block[13], block[22]] == near([shown] * 3)


def test_a_measured_zero_differs_from_unmeasured_by_the_sentinel():
    measured = SeedMeasurements(epochs_since_measured=0, previous_gradient_health=0.0)
    block = slot_of(make_report(Stage.HOLDING, measured=measured))
    assert (block[27], block[29]) == (0.0, 1.0)


def test_ticks_are_fractions_of_the_episode_clipped_to_one():
    report = make_report(Stage.HOLDING, age=400, ticks_in_stage=300, ramp_total=200, ramp_done=150)
    block = slot_of(report, max_epochs=100)
    assert [block[i] for i in (17, 18, 19, 28, 30)] == near([1.0, 1.0, 0.5, 1.0, 1.0])
    assert observe(make_signals(epoch=130), (None,))[0] == 1.0


def test_huge_losses_are_bounded_at_ten():
    assert observe(make_signals(val_loss=1e300), (None,))[1] == 10.0


@pytest.mark.parametrize("norm", [math.inf, math.nan])
def test_a_nonfinite_gradient_norm_counts_as_unmeasured(norm):
    assert slot_of(make_report(Stage.TRAINING, measured=SeedMeasurements(gradient_norm=norm)))[23] == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("val_loss", "val_loss"),
        ("val_accuracy_pp", "val_accuracy"),
        ("loss_history", "loss_history_4"),
        ("accuracy_history_pp", "accuracy_history_4"),
    ],
)
def test_a_nonfinite_host_signal_is_an_error_with_its_name(field, name, bad):
    value = (1.0, bad) if "history" in field else bad
    with pytest.raises(ValueError, match=f"not finite: {name}="):
        observe(make_signals(**{field: value}), (None,))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("contribution_pp", "contribution"),
        ("contribution_velocity_pp", "contribution_velocity"),
        ("interaction_pp", "interaction"),
        ("gradient_health", "gradient_health"),
        ("previous_gradient_health", "previous_gradient_health"),
    ],
)
def test_a_nonfinite_measurement_is_an_error_with_slot_and_value(field, name, bad):
    report = make_report(Stage.HOLDING, measured=SeedMeasurements(**{field: bad}))
    with pytest.raises(ValueError, match=rf"not finite: slot1\.{name}="):
        observe(make_signals(), (None, report))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("field", ["alpha", "alpha_target", "alpha_velocity"])
def test_a_nonfinite_amplitude_is_an_error_with_its_name(field, bad):
    with pytest.raises(ValueError, match=rf"not finite: slot0\.{field}="):
        observe(make_signals(), (make_report(Stage.BLENDING, **{field: bad}),))


@given(reports_of(3), st.floats(0, 1e30), st.floats(0, 100), st.integers(0, 300))
def test_every_state_gives_finite_bounded_numbers(reports, loss, accuracy, epoch):
    signals = make_signals(val_loss=loss, val_accuracy_pp=accuracy, epoch=epoch, loss_history=(loss,))
    vector = observe(signals, reports)
    assert np.isfinite(vector).all()
    assert (np.abs(vector) <= 10.0).all()


@given(reports_of(3))
def test_an_occupied_slot_has_a_one_hot_stage_and_an_empty_one_has_zeros(reports):
    blocks = observe(make_signals(), reports)[23:].reshape(3, 31)
    occupied = [float(report is not None) for report in reports]
    assert blocks[:, 0].tolist() == occupied
    assert blocks[:, 1:11].sum(axis=1).tolist() == occupied


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (1.5, 0.916291), (-1.5, -0.916291), (1000.0, 6.908755)])
def test_symlog_is_odd_and_logarithmic(x, y):
    assert symlog(x) == pytest.approx(y, abs=1e-6)


def test_names_follow_the_layout_and_mark_continuous_features():
    names = observation_names(["r0c0", "r1c2"])
    assert len(names) == len(set(names)) == 85
    assert (names[0], names[16], names[22]) == ("epoch", "last_success", "last_op_advance")
    assert (names[23], names[35], names[54 + 29]) == ("r0c0.is_active", "r0c0.contribution", "r1c2.freshness")
    assert [i for i, c in enumerate(observation.BASE_CONTINUOUS) if c] == [1, 2]
    continuous = [i for i, c in enumerate(observation.SLOT_CONTINUOUS) if c]
    assert continuous == [12, 13, 17, 18, 19, 20, 22, 23, 28, 30]


def test_the_layout_digest_changes_with_the_schema(monkeypatch):
    before = observation.schema_hash()
    assert before == observation.schema_hash()
    assert len(before) == 16
    monkeypatch.setattr(observation, "SCHEMA_VERSION", observation.SCHEMA_VERSION + 1)
    bumped = observation.schema_hash()
    monkeypatch.setattr(observation, "_SLOT", observation._SLOT[::-1])
    assert len({before, bumped, observation.schema_hash()}) == 3
