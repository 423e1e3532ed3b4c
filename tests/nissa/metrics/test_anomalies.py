"""What is not as it should be, from rounds: begins, is over, and is the same however often it is asked."""

import math

import pytest

from esper_ray.nissa.catalogue.kinds import ANOMALIES
from esper_ray.nissa.catalogue.metrics import ENTROPY_FLOORS
from esper_ray.nissa.log.validation import record_problem
from esper_ray.nissa.metrics.anomalies import QUIET, STREAK, anomalies

CHOICES = dict.fromkeys(ENTROPY_FLOORS, 4)
GOOD = {
    "policy_loss": 0.1,
    "value_loss": 0.1,
    "kl": 0.01,
    "grad_norm": 1.0,
    "optimizer_steps": 4,
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
    ("update_without_steps", None): ({"optimizer_steps": 0}, STREAK),
    ("critic_useless", None): ({"explained_variance": -0.1}, STREAK),
    ("rollback_storm", None): ({"rollbacks": 3}, STREAK),
    ("below_control", None): ({"val_accuracy_ratio": 0.2}, 2),
    ("accuracy_regressed", None): ({"val_accuracy_ratio": 0.5}, 4),
    ("nothing_grows", None): ({"op_germinate": 0}, QUIET),
}
"""What is wrong with rounds, and after how many of them it is told, ten good ones having been there before."""


def told(rows, control=None, given_up=()):
    """Records of all rounds, as a run would write them."""
    found = []
    for number in range(len(rows)):
        found += anomalies(rows[: number + 1], CHOICES, control, given_up if number == len(rows) - 1 else ())
    assert [record_problem(record) for record in found] == [None] * len(found)
    return found


def test_a_run_as_it_should_be_has_none():
    assert told([GOOD] * 30, control=0.4) == []


@pytest.mark.parametrize(("key", "what"), BAD.items(), ids=[key[0] for key in BAD])
def test_what_is_wrong_begins_once_and_is_over_once(key, what):
    changes, after = what
    rows = [GOOD] * 10 + [GOOD | changes] * 20 + [GOOD] * 20
    found = [r for r in told(rows, control=0.55) if (r["type"], r["subject"]) == key]
    assert [r["open"] for r in found] == [True, False]
    begins, ends = found
    assert begins["round"] == 10 + after - 1
    assert ends["rounds"] == ends["round"] - begins["round"]
    if begins["value"] is not None:
        assert begins["value"] != begins["threshold"]


def test_every_type_is_tried_and_declared():
    assert {key[0] for key in BAD} | {"environment_given_up"} == set(ANOMALIES)


def test_an_environment_that_is_given_up_is_told_and_never_over():
    found = told([GOOD] * 3, given_up=(4, 7))
    assert [(r["type"], r["subject"], r["round"]) for r in found] == [
        ("environment_given_up", "4", 2),
        ("environment_given_up", "7", 2),
    ]


def test_a_head_without_a_choice_and_a_critic_of_equal_returns_are_not_blamed():
    choices = CHOICES | {"slot": 1}
    rows = [GOOD | {"entropy_slot": 0.0, "explained_variance": -5.0, "low_variance": 1.0, "entropy_op": math.nan}] * 5
    assert anomalies(rows, choices, None) == []


def test_without_a_control_nothing_is_below_it():
    assert told([GOOD | {"val_accuracy_ratio": 0.0}] * 9) == []
