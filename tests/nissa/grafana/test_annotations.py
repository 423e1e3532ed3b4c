"""Annotations of a run, at the end times of its rounds."""

import pytest
from nissa_builders import complete, transition

from esper_ray.leyline.config.loading import build, read_preset
from esper_ray.nissa.grafana.annotations import NAMED, Annotation, annotations
from esper_ray.nissa.log.parquet import EventLogError
from esper_ray.nissa.runs import run_directory as module
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.runs.run_files import RunDirectoryError

pytestmark = pytest.mark.integration


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run whose round ``i`` ends ``60 * (i + 1)`` seconds after 1000."""
    directory = RunDirectory.create(tmp_path, build(read_preset("digits")), [], "r1")
    times = iter(range(1060, 10_000, 60))
    monkeypatch.setattr(module.time, "time", lambda: float(next(times)))
    return directory


def fossilized(number, env, slot="r0c0"):
    return transition(env, 5) | {"round": number, "slot": slot, "from": "HOLDING", "to": "FOSSILIZED"}


def rollback(number, env, **measured):
    return complete({"kind": "rollback", "round": number, "env": env, "reason": "loss diverges"} | measured)


def anomaly(number, name, begun, subject=None, **measured):
    return complete(
        {"kind": "anomaly", "round": number, "type": name, "open": begun, "subject": subject, "rounds": 1} | measured
    )


def end_rounds(run, *numbers):
    for number in numbers:
        run.add_round({"round": number}, {"round": number, "play_seconds": 1.0})


def test_fossilizations_and_rollbacks_of_a_round_are_one_annotation_each(run):
    run.log([fossilized(0, 3), transition(1, 2), fossilized(0, 1, "r0c1"), rollback(0, 2, value=15.16, threshold=6.5)])
    run.log([fossilized(2, 0), rollback(2, 7)])
    end_rounds(run, 0, 1, 2)
    assert annotations(run) == [
        Annotation(
            1_060_000, 1_060_000, "fossilised", "fossilized in round 0 (2): env 1, r0c1: norm; env 3, r0c0: norm"
        ),
        Annotation(
            1_060_000, 1_060_000, "rollback", "rollback in round 0 (1): env 2: loss diverges (15.16, threshold 6.5)"
        ),
        Annotation(1_180_000, 1_180_000, "fossilised", "fossilized in round 2 (1): env 0, r0c0: norm"),
        Annotation(1_180_000, 1_180_000, "rollback", "rollback in round 2 (1): env 7: loss diverges"),
    ]


def test_an_anomaly_is_a_region_and_an_open_one_lasts_to_the_end_of_the_run(run):
    run.log([anomaly(0, "entropy_collapse", True, "op", value=0.01, threshold=0.1), anomaly(1, "nan_loss", True)])
    run.log([anomaly(2, "entropy_collapse", False, "op"), anomaly(2, "entropy_collapse", False, "slot")])
    end_rounds(run, 0, 1, 2, 3)
    first = "anomaly from round 0: entropy_collapse of op (0.01, threshold 0.1)"
    assert annotations(run) == [
        Annotation(1_060_000, 1_180_000, "anomaly", first),
        Annotation(1_120_000, 1_240_000, "anomaly", "anomaly from round 1: nan_loss"),
    ]


def test_an_annotation_of_many_seeds_names_the_first_and_counts_the_rest(run):
    run.log([fossilized(0, env) for env in range(NAMED + 3)])
    end_rounds(run, 0)
    (annotation,) = annotations(run)
    assert annotation.text.startswith(f"fossilized in round 0 ({NAMED + 3}): env 0, ")
    assert annotation.text.endswith(f"env {NAMED - 1}, r0c0: norm; and 3 more")


def test_an_unfinished_round_has_no_annotation_and_a_compacted_round_has_one(run):
    run.log([fossilized(0, 0), fossilized(1, 0), anomaly(1, "nan_loss", True)])
    assert annotations(run) == []
    end_rounds(run, 0)
    before = annotations(run)
    run.compact(always=True)
    assert [annotation.text for annotation in before] == ["fossilized in round 0 (1): env 0, r0c0: norm"]
    assert annotations(RunDirectory.open(run.path)) == before


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("round,play_seconds\n0,1.0\n", r"timings\.csv does not hold the end of each round: an older version wrote it"),
        ("round,ended\n0,inf\n", r"timings\.csv does not hold the end of each round: cannot convert float infinity"),
        ("round,ended\n0,noon\n", r"line 2 of .*timings\.csv: ended: a number is expected, got 'noon'"),
    ],
)
def test_timings_without_end_times_are_refused_with_the_file(run, content, problem):
    (run.path / "timings.csv").write_text(content)
    with pytest.raises(RunDirectoryError, match=problem):
        annotations(run)


def test_a_gap_in_the_event_log_is_an_error(run):
    run.log([fossilized(0, 0), fossilized(0, 1)])
    end_rounds(run, 0)
    lines = (run.path / "events.jsonl").read_text().splitlines(keepends=True)
    (run.path / "events.jsonl").write_text(lines[1])
    with pytest.raises(EventLogError):
        annotations(run)
