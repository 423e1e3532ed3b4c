"""``esper train`` from end to end, in one process."""

import csv
import re
import shutil

import pytest
import torch
from cli_builders import SMALL, call, only_run
from variants import rest_at_night

from esper_actors.training.checkpoint import checkpoints_in, load_checkpoint
from esper_actors.training.learner.ppo import PPOLearner
from esper_policies.bundle import weights_digest
from esper_ray.leyline.config.reward import REWARD_MODES

pytestmark = pytest.mark.integration

LINE = re.compile(
    r"round (\d+)/2  \d+\.\d steps/s  return [+-]\d+\.\d\d  accuracy \d+\.\d%  growth \d+\.\d\dx  "
    r"(only wait|(germ|alpha|prune|foss|adv) \d+( .*)?)  left \d+:\d\d"
)


def test_a_run_writes_all_its_files(finished):
    run = finished.run
    assert (finished.answer.code, finished.answer.err) == (0, "")
    assert sorted(path.name for path in run.path.iterdir()) == [
        "checkpoints",
        "config.yaml",
        "events",
        "events.jsonl",
        "integrity.json",
        "live.jsonl",
        "manifest.json",
        "pulse.json",
        "rounds.csv",
        "samples",
        "samples.jsonl",
        "summary.png",
        "timings.csv",
    ]
    assert [path.name for path in checkpoints_in(run.checkpoints)] == ["round-00000", "round-00001", "round-00002"]
    assert [row["round"] for row in run.rounds()] == ["0", "1"]
    with (run.path / "timings.csv").open(newline="") as file:
        assert all(float(row["env_steps_per_second"]) > 0 for row in csv.DictReader(file))
    assert run.picture.read_bytes()[:4] == b"\x89PNG"


def test_events_start_and_end_with_the_run_and_have_no_gap(finished):
    run = finished.run
    events = list(run.events())
    assert [event["seq"] for event in events] == list(range(len(events)))
    assert (events[0]["kind"], events[-1]["kind"]) == ("run_started", "run_finished")
    kinds = [event["kind"] for event in events]
    assert (kinds.count("outcome"), kinds.count("env_epoch"), kinds.count("round")) == (4, 12, 2)
    assert events[0]["config_sha256"] == run.config().digest()


def test_the_digest_of_the_saved_weights_is_printed_and_logged(finished):
    out, run = finished.answer.out, finished.run
    digest = re.search(r"policy weights sha256 ([0-9a-f]{64})", out)[1]
    manifest = run.read_manifest()
    assert (manifest["status"], manifest["policy_sha256"]) == ("finished", digest)
    assert list(run.events())[-1]["policy_sha256"] == digest
    learner = load_checkpoint(finished.saved, run.config()).learner
    assert weights_digest(learner.weights()) == digest


def test_a_learner_resumes_from_the_saved_checkpoint(finished):
    run, saved = finished.run, finished.saved
    learner = PPOLearner(run.config())
    before = learner.weights()
    learner.load(load_checkpoint(saved, run.config()).learner)
    assert learner.updates == 2
    assert not torch.equal(learner.weights()["op_head.0.weight"], before["op_head.0.weight"])
    for name in ("state.json", "learner.safetensors"):
        assert (saved / name).read_bytes() == (run.checkpoints / "round-00002" / name).read_bytes()


def test_a_plain_line_describes_a_round(finished):
    lines = [line for line in finished.answer.out.splitlines() if re.match(r"round \d+/", line)]
    assert [LINE.fullmatch(line)[1] for line in lines] == ["1", "2"]
    assert lines[1].endswith("left 0:00")


def test_the_output_contains_the_run_its_picture_and_a_summary(finished):
    out, run = finished.answer.out, finished.run
    assert f"run {run.path}" in out
    assert f"picture {run.picture}" in out
    assert "2 rounds of 2 episodes of 3 steps, reward basic, seed 42; policy of 94,308 parameters" in out  # width 16
    assert "local: one process" in out
    for row in ("mean return", "validation accuracy", "growth ratio", "environment steps", "best episode"):
        assert row in out


def test_flags_override_the_preset_and_are_in_the_manifest(finished):
    config = finished.run.read_manifest()["config"]
    assert (config["system"]["envs"], config["episode_length"], config["policy"]["memory_size"]) == (2, 3, 16)
    assert config["name"] == "digits"


def test_resuming_a_finished_run_changes_nothing(finished, esper):
    run = finished.run
    before = {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()}
    answer = esper("train", "ppo", "--serial", "--resume", run.path)
    assert answer.code == 0
    assert "is finished: 2 rounds" in " ".join(answer.out.split())
    assert {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()} == before


def test_the_checkpoint_of_a_finished_run_can_still_be_saved(finished, esper, tmp_path):
    """``--save`` promises the final checkpoint, also of a finished run."""
    answer = esper("train", "ppo", "--serial", "--resume", finished.run.path, "--save", tmp_path / "copy")
    assert answer.code == 0
    assert load_checkpoint(tmp_path / "copy", finished.run.config()).round_index == 2


@pytest.mark.parametrize("name", ["copy", "checkpoints/round-00003", "checkpoints/../x"])
def test_a_checkpoint_is_not_saved_inside_the_run_itself(finished, esper, name):
    run = finished.run.path
    before = sorted(run.rglob("*"))
    answer = esper("train", "ppo", "--serial", "--resume", run, "--save", run / name)
    assert answer.code == 2
    assert f"--save {run / name}: it lies in the run {run}; choose a path outside" in answer.err
    assert sorted(run.rglob("*")) == before


def test_resuming_with_another_configuration_is_refused_with_the_differences(finished, esper):
    run = finished.run
    before = (run.path / "manifest.json").read_bytes()
    flags = ("--set", "ppo.lr=1e-2", "--set", "gamma=0.5")
    answer = esper("train", "ppo", "--serial", "--resume", run.path, *flags)
    assert answer.code == 2
    assert answer.err.splitlines() == [
        f"esper: error: {run.path} was started with another configuration:",
        "esper: error: gamma: 0.995 -> 0.5",
        "esper: error: ppo.lr: 0.0003 -> 0.01",
    ]
    assert (run.path / "manifest.json").read_bytes() == before


def test_a_damaged_checkpoint_is_refused(finished, esper, tmp_path):
    run = tmp_path / "copy"
    shutil.copytree(finished.run.path, run)
    (run / "checkpoints" / "round-00002" / "learner.safetensors").write_bytes(b"")
    answer = esper("train", "ppo", "--serial", "--resume", run)
    assert answer.code == 2
    assert "round-00002 is damaged" in answer.err


def test_a_run_that_fails_before_its_first_checkpoint_is_removed(train, runs, monkeypatch):
    def broken(*arguments, **options):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("esper_actors.session.make_workers", broken)
    with pytest.raises(ZeroDivisionError):
        train("--rounds", "1")
    assert list(runs.iterdir()) == []


def test_a_run_that_fails_later_has_status_failed_in_its_manifest(train, runs, monkeypatch):
    def broken(*arguments, **options):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("esper_actors.training.learner.ppo.PPOLearner.update", broken)
    with pytest.raises(ZeroDivisionError):
        train("--rounds", "1")
    assert only_run(runs).read_manifest()["status"] == "failed"


def test_flags_without_effect_are_accepted_with_a_note(train, monkeypatch):
    monkeypatch.setattr("esper_ray.cli.jobs.train.PPOJob.run", lambda job: 0)
    answer = train("--rounds", "1", "--gpu-preload", "--num-workers", "0", "--force-compile", "--compile-mode", "off")
    too_short = "note: episodes of 3 epochs are too short to commit a seed, which needs 8\n"
    assert (answer.code, answer.out) == (0, too_short)
    assert answer.err.splitlines() == [
        "esper: note: --num-workers has no effect: the data set lives on the device, so there are no loader workers",
        "esper: note: --gpu-preload has no effect: the data set always lives on the device",
        "esper: note: --force-compile has no effect: --compile-mode alone decides how hosts are compiled",
    ]


def test_the_heuristic_plays_episodes_and_prints_reasons(esper, runs):
    answer = esper(
        *("train", "heuristic", "--episodes", "2", "--episode-length", "5", "--telemetry-dir", runs),
        *("--set", "training.steps_per_epoch=2", "--set", "task.validation_size=50", "--slots", "r0c1", "r0c2"),
        drawn=True,
    )
    assert answer.code == 0
    assert len(re.findall(r"epoch +3  GERMINATE +r0c2  slot is empty: try conv_light", answer.out)) == 2
    assert re.search(r"episode 1: return [+-]\d+\.\d\d, validation \d+\.\d %, test \d+\.\d %, 0 fossilized", answer.out)
    run = only_run(runs)
    assert run.read_manifest()["status"] == "finished"
    assert run.config().growth.slots == ("r0c1", "r0c2")
    assert [event["episode"] for event in run.events() if event["kind"] == "outcome"] == [0, 1]
    assert run.picture.exists()


@pytest.mark.parametrize("mode", rest_at_night(["loss", *REWARD_MODES], 3))
def test_every_reward_mode_trains(train, runs, mode):
    flags = ["--set", "reward.family=loss"] if mode == "loss" else []
    answer = train("--rounds", "2", "--reward-mode", "shaped" if mode == "loss" else mode, *flags)
    assert (answer.code, answer.err) == (0, "")
    rounds = only_run(runs).rounds()
    assert [row["round"] for row in rounds] == ["0", "1"]
    assert all(float(row["optimizer_steps"]) > 0 for row in rounds)


@pytest.mark.parametrize("place", ["/proc/x", "link", "there", "nowhere/deep"])
def test_a_place_where_no_checkpoint_can_be_saved_is_refused_before_the_run(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("nothing")
    (tmp_path / "there").mkdir()
    answer = call("train", "ppo", "--serial", *SMALL, "--rounds", "1", "--save", place)
    assert answer.code == 2
    assert f"--save {place}: it" in answer.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "there"]


def test_seeds_of_a_comparison_without_one_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = call("train", "ppo", "--serial", *SMALL, "--rounds", "1", "--ab-seeds", "5")
    assert (answer.code, "--ab-seeds 5 belongs to --dual-ab" in answer.err) == (2, True)
    assert list(tmp_path.iterdir()) == []
