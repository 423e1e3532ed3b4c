"""The newest records of a run."""

from state_builders import finished_round, step

from esper_ray.karn.recent import RecentRecords


def numbered(records):
    return [{**record, "seq": number} for number, record in enumerate(records)]


def collected(records, kept=500):
    recent = RecentRecords(kept)
    for record in numbered(records):
        recent.event(record)
    return recent


def test_the_newest_of_each_kind_are_kept_in_the_order_of_the_log():
    recent = collected([finished_round(n, 0.5) if n % 3 == 0 else step(number=n) for n in range(12)], kept=2)
    assert [record["seq"] for record in recent.snapshot().events()] == [6, 9, 10, 11]


def test_the_records_of_the_newest_episode_replace_those_of_the_one_before():
    recent = collected([step(number=1, episode=0), step(number=2, episode=0), step(number=1, episode=8)])
    assert [record["episode"] for record in recent.snapshot().episodes[0]] == [8]


def test_steps_in_play_are_dropped_when_their_episode_is_logged():
    recent = RecentRecords()
    recent.live_step(step(number=1, episode=3))
    assert len(recent.snapshot().episode(0)) == 1
    recent.event({**step(number=1, episode=3), "seq": 0})
    recent.live_step(step(number=2, episode=3))
    assert recent.snapshot().live == {}


def test_steps_in_play_that_are_read_anew_are_not_doubled():
    recent = RecentRecords()
    for number in (1, 2, 3, 1, 2, 3, 4, 3):
        recent.live_step(step(number=number, episode=3))
    assert [record["step"] for record in recent.snapshot().live[0]] == [1, 2, 3]


def test_a_snapshot_does_not_change_afterwards():
    recent = collected([step(number=1)])
    before = recent.snapshot()
    recent.event({**step(number=2), "seq": 1})
    assert len(before.by_kind["env_epoch"]) == 1
    assert len(recent.snapshot().by_kind["env_epoch"]) == 2
