"""The report of a run: complete, safe, small, the same for equal logs."""

import json
import shutil

import pytest
from nissa_builders import complete
from report_builders import (
    anomaly,
    checked,
    episode,
    round_end,
    run_of,
    small_records,
    small_run,
    visible_text,
)

from esper_ray.karn.reports.html.page import MOST_BYTES
from esper_ray.karn.reports.html.run.charts import anomaly_spans
from esper_ray.karn.reports.html.run.report import run_report
from esper_ray.karn.reports.html.run.sections import command_line, differences
from esper_ray.leyline.errors import Fault
from esper_ray.nissa.log.parquet import EventLogError
from esper_ray.nissa.runs.run_directory import RunDirectory

pytestmark = pytest.mark.integration

EVIL = "<script>alert('x')</script>\x1b"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def page(run):
    return run_report(run)


@pytest.fixture(scope="module")
def words(page):
    return visible_text(page)


def test_the_page_is_well_formed_and_loads_nothing(page):
    checker = checked(page)
    assert "http" not in page.replace("http-equiv", "")
    assert "url(" not in page
    assert checker.names >= {"svg", "table", "details", "main", "nav", "h1"}
    assert page.startswith("<!DOCTYPE html>\n<html lang=")


def test_equal_logs_give_equal_bytes_wherever_they_lie(run, page, tmp_path):
    copy = tmp_path / "elsewhere" / run.run_id
    shutil.copytree(run.path, copy)
    assert run_report(run) == page
    assert run_report(RunDirectory.open(copy)) == page
    assert str(run.path.parent) not in page


def test_the_page_is_small(page):
    assert len(page.encode()) < 120_000


def test_every_part_is_there(words):
    parts = ("Verdict", "Five answers", "Curves", "Blueprints", "Reward by source", "Operations and gates", "Episodes")
    parts += ("Rollbacks, anomalies, faults", "Evidence")
    assert [part for part in (*parts, "Configuration", "How to repeat it") if part not in words] == []


def entry(source, amount):
    return {"source": source, "amount": amount, "cause_step": 0, "slot": None, "why": "because"}


def test_rewards_and_operations_are_those_of_all_steps(tmp_path):
    records, amounts = episode(0, [25.0, 30.0, 35.0, 40.0]), iter((0.5, 0.25, -0.5, 1.0))
    for record in records:
        if record["kind"] == "env_epoch":
            record["entries"] = [entry("gain", next(amounts)), entry("rent", -0.125)]
    words = visible_text(run_report(run_of(tmp_path, [*records, round_end(0, 38.0)[-1]])))
    assert "gain +1.25 +0.3125" in words
    assert "rent -0.50 -0.1250" in words
    assert "all +0.75 +0.1875" in words
    assert "WAIT 4 100.0 % 1" in words


def test_the_verdict_has_numbers_with_unit_n_and_interval(words):
    assert "The run finished: 3 rounds with 6 episodes and 21 steps." in words
    assert "Its 6 newest episodes ended at 38.0 % validation accuracy on average, 13.0 points more" in words
    assert "(25.0 %, n = 1); the 95 % bootstrap interval of the gain is +" in words
    assert "It rests on 1 control: how much controls differ from seed to seed is hardly known." in words
    assert "from 28.0 % to 48.0 % (n = 2 and 2 episodes), the mean return from +0.50 to +0.50." in words
    assert "It had 1 rollback (16.7 % of 6 episodes), 1 anomaly and 1 fault of processes or places." in words


def test_the_answers_have_levels_and_reasons(words):
    assert "Is it alive? \u2713 ok finished, 3 of 3 rounds done" in words
    assert "Is the policy learning? \u2713 ok gain +13.0 pp" in words
    assert "6 newest episodes against 1 without growth" in words
    assert "Is it safe? \u2713 ok no anomaly, 1 rollbacks so far" in words


def test_blueprints_have_counts_and_their_mean_contribution(words):
    assert "norm 3 0 100 % +1.50 ± 0.00 3" in words


def test_best_median_and_worst_episode_are_drawn(words):
    assert "The best episode: number 4, round 3, environment 0" in words
    assert "The median episode: number 3, round 2, environment 1" in words
    assert "The worst episode: number 1, round 1, environment 1" in words
    assert "the mean of the controls at 25.0 %" in words


def test_rollbacks_anomalies_and_faults_are_listed(words):
    assert "2 3 1 3 loss_spike 4.5 3" in words
    assert "2 begins head collapsed (style): 0.04, threshold 0.08" in words
    assert "3 ends after 1 round head collapsed (style)" in words
    assert "2 environment actor died worker 1 killed 2.5 s" in words


def test_whole_evidence_is_said_to_be_whole(words):
    assert "The evidence is whole: no event is missing, none is damaged, every digest is right." in words


def test_the_run_can_be_repeated_from_the_page(run, words):
    assert "esper train ppo --seed 3" in words
    assert "/opt/bin" not in words
    assert run.read_manifest()["config_sha256"] in words
    assert "decade" in words


def test_the_configuration_is_its_difference_from_the_preset(words):
    assert "It differs from the preset digits in" in words


def test_what_an_older_version_did_not_record_is_no_zero(words):
    assert "Shares above and below the range: not recorded by this version." in words


def test_returns_that_hardly_vary_are_grey(tmp_path):
    page = run_report(run_of(tmp_path, small_records(low_variance=1.0)))
    assert "where returns hardly vary: no meaning" in page
    assert 'class="fg"' in page
    assert "In 1 round returns hardly varied." in page


def test_texts_of_a_run_are_escaped(tmp_path):
    records = small_records(rollback=EVIL)
    records.append(complete({"kind": "environment_quarantined", "round": 2, "env": 1, "error": EVIL}))
    run = run_of(tmp_path, records, faults=[Fault(EVIL, EVIL, EVIL)])
    manifest = run.read_manifest()
    evil = {"command": [EVIL, EVIL], "run_id": EVIL, "versions": {EVIL: EVIL}, "git": {"commit": EVIL}}
    run.write_manifest(manifest | evil | {"hardware": {"host": EVIL}, "started": EVIL, "config_sha256": EVIL})
    page = run_report(run)
    checked(page)
    assert "<script" not in page
    assert "\x1b" not in page
    assert page.count("&lt;script&gt;") >= 10


@pytest.mark.parametrize(
    ("status", "text"),
    [
        ("failed", "The run failed after 1 of 3 rounds;"),
        ("interrupted", "The run was interrupted after 1 of 3 rounds;"),
        ("running", "The run has the status running after 1 of 3 rounds;"),
    ],
)
def test_a_run_that_did_not_finish_says_how_it_ended(tmp_path, status, text):
    records = [*episode(0, [30.0]), *episode(1, [31.0], env=1), *round_end(0, 30.5)]
    words = visible_text(run_report(run_of(tmp_path, records, status=status, ppo__rounds=3)))
    assert text in words
    assert "Nothing is missing or damaged so far." in words
    assert "No control without growth was measured, so a gain from growth is not known." in words
    assert ("A report has no clock." in words) == (status == "running")


def test_a_run_without_episodes_is_a_page_without_curves(tmp_path):
    words = visible_text(run_report(run_of(tmp_path, [], status="running")))
    for text in (
        "No episode is over, so nothing can be said about its networks.",
        "No round is over, so there are no curves.",
        "No seed was fossilized or pruned.",
    ):
        assert text in words


def test_a_missing_event_is_named_and_the_evidence_not_whole(tmp_path):
    run = run_of(tmp_path, small_records(), status="running")
    lines = run.event_log.tail.read_bytes().splitlines(keepends=True)
    run.event_log.tail.write_bytes(b"".join(lines[:5] + lines[6:]))
    page = run_report(RunDirectory.open(run.path))
    words = visible_text(page)
    assert "The evidence is not whole." in words
    assert "run-1: events 5 to 5 are missing" in words
    assert str(tmp_path) not in page


def test_a_damaged_log_is_an_error(tmp_path):
    run = run_of(tmp_path, small_records())
    (part,) = run.event_log.parts()
    (part.path / "outcome.parquet").write_bytes(b"nothing")
    with pytest.raises(EventLogError, match=r"outcome\.parquet"):
        run_report(run)


def test_a_long_run_with_many_rollbacks_stays_below_the_limit(tmp_path):
    records = []
    for index in range(300):
        for env in range(4):
            records += episode(4 * index + env, [30.0 + env], env=env, round_index=index, rollback="loss_spike")
        records += [*round_end(index, 30.0), anomaly(index), anomaly(index, begins=False, rounds=1)]
    page = run_report(run_of(tmp_path, records))
    checked(page)
    assert len(page.encode()) < MOST_BYTES
    assert "The first 500 of 1,200;" in page
    assert "esper events run-1 --kind rollback --limit 0" in page


def test_an_anomaly_without_an_end_lasts_until_the_last_round():
    records = [anomaly(1), anomaly(3, begins=False), anomaly(4)]
    assert anomaly_spans(records, 9) == [(2, 3), (5, 9)]


def test_differences_name_keys_that_one_side_lacks():
    assert differences({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": None}) == [("b", "2", "3"), ("c", "absent", "None")]


def test_a_command_is_quoted_and_its_program_has_no_folder():
    assert command_line(["/opt/x/esper", "train", "a b"]) == "esper train 'a b'"
    assert command_line(["/opt/x/esper_ray/__main__.py", "train"]) == "python -m esper_ray train"
    assert command_line(None) == "not recorded by this version"


def test_a_manifest_with_little_in_it_is_enough(tmp_path):
    run = run_of(tmp_path, small_records())
    manifest = run.read_manifest()
    for name in ("versions", "git", "hardware", "started", "command", "config_sha256"):
        del manifest[name]
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    assert visible_text(run_report(run)).count("not recorded by this version") >= 6
