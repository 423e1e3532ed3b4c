"""Marks of a run: what befell it, at the times when its rounds ended."""

import pytest
from nissa_builders import complete, transition

from esper_ray.leyline.config.loading import build, read_preset
from esper_ray.nissa.grafana.annotations import NAMED, Annotation, annotations
from esper_ray.nissa.log.parquet import EventLogError
from esper_ray.nissa.runs import run_directory as module
from esper_ray.nissa.runs.run_directory import RunDirectory, RunDirectoryError


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run whose round ``i`` ends ``60 * (i + 1)`` seconds after 1000."""
    directory = RunDirectory.create(tmp_path, build(read_preset("digits")), [], "r1")
    times = iter(range(1060, 10_000, 60))
    monkeypatch.setattr(module.time, "time", lambda: float(next(times)))
    return directory


def fossilised(number, env, slot="r0c0"):
    return transition(env, 5) | {"round": number, "slot": slot, "from": "HOLDING", "to": "FOSSILIZED"}


def rollback(number, env, **measured):
    return complete({"kind": "rollback", "round": number, "env": env, "reason": "loss diverges"} | measured)


def anomaly(number, name, begun, subject=None, **measured):
    return complete(
        {"kind": "anomaly", "round": number, "type": name, "open": begun, "subject": subject, "rounds": 1} | measured
    )


def over(run, *numbers):
    for number in numbers:
        run.add_round({"round": number}, {"round": number, "play_seconds": 1.0})


def test_seeds_and_rollbacks_are_one_mark_each_at_the_end_of_their_round(run):
    run.log([fossilised(0, 3), transition(1, 2), fossilised(0, 1, "r0c1"), rollback(0, 2, value=15.16, threshold=6.5)])
    run.log([fossilised(2, 0), rollback(2, 7)])
    over(run, 0, 1, 2)
    assert annotations(run) == [
        Annotation(
            1_060_000, 1_060_000, "fossilised", "fossilised in round 0 (2): env 1, r0c1: norm; env 3, r0c0: norm"
        ),
        Annotation(
            1_060_000, 1_060_000, "rollback", "rollback in round 0 (1): env 2: loss diverges (15.16, threshold 6.5)"
        ),
        Annotation(1_180_000, 1_180_000, "fossilised", "fossilised in round 2 (1): env 0, r0c0: norm"),
        Annotation(1_180_000, 1_180_000, "rollback", "rollback in round 2 (1): env 7: loss diverges"),
    ]


def test_an_anomaly_is_a_region_and_what_is_not_over_lasts_to_the_end(run):
    run.log([anomaly(0, "entropy_collapse", True, "op", value=0.01, threshold=0.1), anomaly(1, "nan_loss", True)])
    run.log([anomaly(2, "entropy_collapse", False, "op"), anomaly(2, "entropy_collapse", False, "slot")])
    over(run, 0, 1, 2, 3)
    first = "anomaly from round 0: entropy_collapse of op (0.01, threshold 0.1)"
    assert annotations(run) == [
        Annotation(1_060_000, 1_180_000, "anomaly", first),
        Annotation(1_120_000, 1_240_000, "anomaly", "anomaly from round 1: nan_loss"),
    ]


def test_of_many_seeds_a_mark_names_the_first(run):
    run.log([fossilised(0, env) for env in range(NAMED + 3)])
    over(run, 0)
    (mark,) = annotations(run)
    assert mark.text.startswith(f"fossilised in round 0 ({NAMED + 3}): env 0, ")
    assert mark.text.endswith(f"env {NAMED - 1}, r0c0: norm; and 3 more")


def test_a_round_that_goes_on_has_no_marks_yet_and_a_compacted_one_has_them(run):
    run.log([fossilised(0, 0), fossilised(1, 0), anomaly(1, "nan_loss", True)])
    assert annotations(run) == []
    over(run, 0)
    before = annotations(run)
    run.compact(always=True)
    assert [mark.text for mark in before] == ["fossilised in round 0 (1): env 0, r0c0: norm"]
    assert annotations(RunDirectory.open(run.path)) == before


@pytest.mark.parametrize(
    ("content", "problem"),
    [("round,play_seconds\n0,1.0\n", "an older version wrote it"), ("round,ended\n0,noon\n", "'noon'")],
)
def test_a_run_that_does_not_say_when_its_rounds_ended_is_refused_with_the_file(run, content, problem):
    (run.path / "timings.csv").write_text(content)
    with pytest.raises(RunDirectoryError, match=rf"timings\.csv does not hold the end of each round: .*{problem}"):
        annotations(run)


def test_events_that_cannot_be_read_are_an_error(run):
    run.log([fossilised(0, 0), fossilised(0, 1)])
    over(run, 0)
    lines = (run.path / "events.jsonl").read_text().splitlines(keepends=True)
    (run.path / "events.jsonl").write_text(lines[1])
    with pytest.raises(EventLogError):
        annotations(run)
