"""Reports of benchmarks: bars, verdicts, the JSON line, paired timing."""

import json

import pytest

from benchmarks.__main__ import write
from benchmarks.report import Bar, Measurements, paired_seconds


@pytest.mark.parametrize(
    ("bar", "figure", "holds"),
    [
        (Bar(1.2), 1.2, True),
        (Bar(1.2), 1.201, False),
        (Bar(1.2), -5.0, True),
        (Bar(1.6, at_least=True), 1.6, True),
        (Bar(1.6, at_least=True), 1.599, False),
        (Bar(1.6, at_least=True), 9.0, True),
        (Bar(1.2), float("nan"), False),
        (Bar(1.6, at_least=True), float("nan"), False),
    ],
)
def test_a_bar_holds_on_its_side_of_the_limit(bar, figure, holds):
    assert bar.holds(figure) is holds


def test_a_bar_is_written_with_its_direction():
    assert str(Bar(1.2)) == "<= 1.20"
    assert str(Bar(1.6, at_least=True)) == ">= 1.60"


def result(ratio, speedup=2.0):
    figures = {"ratio": ratio, "speedup": speedup, "seconds": 0.123456}
    return Measurements("env_step", figures, {"ratio": Bar(1.2), "speedup": Bar(1.6, at_least=True)})


def test_the_line_is_json_of_four_keys():
    assert json.loads(result(1.1).line()) == {
        "benchmark": "env_step",
        "figures": {"ratio": 1.1, "speedup": 2.0, "seconds": 0.1235},
        "bars": {"ratio": "<= 1.20", "speedup": ">= 1.60"},
        "ok": True,
    }
    assert list(json.loads(result(1.1).line())) == ["benchmark", "figures", "bars", "ok"]
    assert "\n" not in result(1.1).line()


@pytest.mark.parametrize(("ratio", "speedup"), [(1.3, 2.0), (1.1, 1.5), (1.3, 1.5)])
def test_a_result_with_a_missed_bar_is_not_ok(ratio, speedup):
    assert result(ratio, speedup).ok is False
    assert json.loads(result(ratio, speedup).line())["ok"] is False


def test_the_verdict_uses_the_figure_before_rounding():
    assert json.loads(result(1.20001).line())["ok"] is False


def test_a_result_without_bars_is_ok():
    assert Measurements("free", {"x": 1e9}, {}).ok is True


def test_the_last_line_shown_is_the_json_line(capsys):
    result(1.3).show()
    shown = capsys.readouterr().out.splitlines()
    assert json.loads(shown[-1]) == json.loads(result(1.3).line())
    table = "\n".join(shown[:-1])
    assert table.count("MISSED") == 1
    assert "1.300" in table


def test_pairs_are_timed_alternately_after_a_warm_up(monkeypatch):
    """A clock that each call advances: the first takes 3 seconds, the second 2, so the ratio is 1.5."""
    calls, now = [], [0.0]

    def work(name, seconds):
        def run():
            calls.append(name)
            now[0] += seconds

        return run

    monkeypatch.setattr("benchmarks.report.perf_counter", lambda: now[0])
    assert paired_seconds(work("a", 3.0), work("b", 2.0), pairs=3) == (3.0, 2.0, 1.5)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"


def test_a_written_result_replaces_its_own_section_alone(tmp_path):
    other = Measurements("host_epoch", {"ratio": 0.5}, {"ratio": Bar(1.05)})
    for result_now in (result(1.3), other, result(1.1)):
        path = write(result_now, tmp_path)
    text = path.read_text(encoding="utf-8")
    assert text.count("## env_step") == text.count("## host_epoch") == 1
    assert text.index("## host_epoch") < text.index("## env_step")  # in the order of a complete run
    assert "| ratio | 1.100 | <= 1.20 | ok |" in text
    assert "| ratio | 0.500 | <= 1.05 | ok |" in text
    assert "1.300" not in text
