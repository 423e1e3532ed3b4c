"""Anomalies of rounds: opened once, closed once, independent of repeated evaluation."""

import math

import pytest

from esper_ray.nissa.catalogue.kinds import ANOMALIES
from esper_ray.nissa.catalogue.metrics import ENTROPY_FLOORS
from esper_ray.nissa.log.validation import record_problem
from esper_ray.nissa.metrics.anomalies import QUIET_ROUNDS, STREAK, anomalies

CHOICES = dict.fromkeys(ENTROPY_FLOORS, 4)
GOOD = {
    "policy_loss": 0.1,
    "value_loss": 0.1,
    "kl": 0.01,
    "grad_norm": 1.0,
    "optimizer_steps": 4,
    "skipped_minibatches": 0,
    "explained_variance": 0.5,
    "low_variance": 0.0,
    "rollbacks": 0,
    "episodes": 8,
    "op_germinate": 3,
    "val_accuracy_ratio": 0.6,
    **{f"entropy_{head}": 0.7 for head in ENTROPY_FLOORS},
}
BAD = {
    ("nonfinite", "kl"): ({"kl": math.nan}, 1),
    ("update_too_large", None): ({"kl": 0.2}, 1),
    ("head_collapsed", "slot"): ({"entropy_slot": 0.09 * math.log(4)}, STREAK),
    ("minibatches_skipped", None): ({"skipped_minibatches": 2}, 1),
    ("update_without_steps", None): ({"optimizer_steps": 0}, STREAK),
    ("critic_useless", None): ({"explained_variance": -0.1}, STREAK),
    ("rollback_storm", None): ({"rollbacks": 3}, STREAK),
    ("below_control", None): ({"val_accuracy_ratio": 0.2}, 2),
    ("accuracy_regressed", None): ({"val_accuracy_ratio": 0.5}, 4),
    ("nothing_grows", None): ({"op_germinate": 0}, QUIET_ROUNDS),
}
"""Changes of a round by (type, subject), and number of such rounds after ten good ones until the anomaly opens."""


def anomaly_records(rows, control=None, quarantined=()):
    """Anomaly records of all rounds, as a run writes them."""
    records = []
    for number in range(len(rows)):
        records += anomalies(rows[: number + 1], CHOICES, control, quarantined if number == len(rows) - 1 else ())
    assert [record_problem(record) for record in records] == [None] * len(records)
    return records


def test_a_healthy_run_has_no_anomaly():
    assert anomaly_records([GOOD] * 30, control=0.4) == []


@pytest.mark.parametrize(("key", "fault"), BAD.items(), ids=[key[0] for key in BAD])
def test_an_anomaly_opens_once_and_closes_once(key, fault):
    changes, after = fault
    rows = [GOOD] * 10 + [GOOD | changes] * 20 + [GOOD] * 20
    records = [r for r in anomaly_records(rows, control=0.55) if (r["type"], r["subject"]) == key]
    assert [r["open"] for r in records] == [True, False]
    opened, closed = records
    assert opened["round"] == 10 + after - 1
    assert closed["rounds"] == closed["round"] - opened["round"]
    if opened["value"] is not None:
        assert opened["value"] != opened["threshold"]


def test_every_declared_type_has_a_case():
    assert {key[0] for key in BAD} | {"environment_quarantined"} == set(ANOMALIES)


def test_a_quarantined_environment_is_an_anomaly_that_never_closes():
    records = anomaly_records([GOOD] * 3, quarantined=(4, 7))
    assert [(r["type"], r["subject"], r["round"]) for r in records] == [
        ("environment_quarantined", "4", 2),
        ("environment_quarantined", "7", 2),
    ]


def test_single_choice_heads_and_equal_returns_are_no_anomalies():
    choices = CHOICES | {"slot": 1}
    rows = [GOOD | {"entropy_slot": 0.0, "explained_variance": -5.0, "low_variance": 1.0, "entropy_op": math.nan}] * 5
    assert anomalies(rows, choices, None) == []


def test_without_a_control_below_control_never_opens():
    assert anomaly_records([GOOD | {"val_accuracy_ratio": 0.0}] * 9) == []
