"""Notable events, with worth and life of the seeds that ended."""

import pytest
from nissa_builders import complete
from state_builders import moved, report, step

from esper_ray.karn.notable import is_notable, lived_steps, newest_notable, worth_at
from esper_ray.karn.recent import RecentRecords


def numbered(records):
    return [{**record, "seq": number} for number, record in enumerate(records)]


@pytest.mark.parametrize(
    ("record", "notable"),
    [
        (moved("HOLDING", "FOSSILIZED"), True),
        (moved("HOLDING", "PRUNED"), True),
        (moved("DORMANT", "GERMINATED"), False),
        (complete({"kind": "rollback"}), True),
        (complete({"kind": "gate"}), False),
        (complete({"kind": "anomaly"}), True),
    ],
)
def test_ends_of_seeds_and_trouble_are_notable(record, notable):
    assert is_notable(record) is notable


def test_up_to_half_are_no_ends_of_seeds_and_the_newest_comes_first():
    rollbacks = [complete({"kind": "rollback", "env": env}) for env in range(6)]
    ends = [moved("HOLDING", "PRUNED", env=env) for env in range(6)]
    recent = RecentRecords()
    for record in numbered(rollbacks + ends):
        recent.event(record)
    found = newest_notable(recent.snapshot(), 4)
    assert [(record["kind"], record["seq"]) for record in found] == [
        ("seed_transition", 11), ("seed_transition", 10), ("rollback", 5), ("rollback", 4),
    ]  # fmt: skip
    assert newest_notable(recent.snapshot(), 0) == []


def test_the_worth_of_a_seed_is_the_newest_measured_before_its_end():
    slots = [{"r0c0": report("HOLDING", worth)} for worth in (1.0, 2.0, None, 9.0)]
    steps = [step(number=number, slots=slot) for number, slot in enumerate(slots, 1)]
    assert worth_at(moved("HOLDING", "PRUNED", 3), steps) == 2.0
    assert worth_at(moved("HOLDING", "PRUNED", 3, seed="r0c0-2"), steps) is None
    assert worth_at(moved("HOLDING", "PRUNED", 3, episode=5), steps) is None


def test_a_seed_lived_from_its_germination():
    transitions = [moved("DORMANT", "GERMINATED", 4), moved("DORMANT", "GERMINATED", 7, seed="r0c0-2")]
    assert lived_steps(moved("HOLDING", "PRUNED", 9), transitions) == 5
    assert lived_steps(moved("HOLDING", "PRUNED", 9, seed="r0c0-3"), transitions) is None
