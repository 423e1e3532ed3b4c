"""Damaged checkpoints at the command line: exit code 2, one line, the newest intact one, and nothing changed."""

import shutil

import pytest
import torch
from checkpoint_builders import rewrite
from cli_builders import call, train_below
from damage_builders import flipped
from variants import rest_at_night

import esper_ray
from esper_actors.training.checkpoint import CheckpointError, checkpoints_in
from esper_actors.training.run_preparation import prepare_run
from esper_ray.leyline.errors import UsageError
from esper_ray.nissa.runs.copies.storage import StorageError
from esper_ray.nissa.runs.run_directory import RunDirectory

pytestmark = pytest.mark.integration


def flip_a_bit(checkpoint):
    """One bit of one weight, under the recorded digest."""
    file = checkpoint / "learner.safetensors"
    content = file.read_bytes()
    file.write_bytes(flipped(content, len(content) - 3))


def tensors(change):
    """A change of tensors, with a digest that fits."""
    return lambda checkpoint: rewrite(checkpoint, change_tensors=change)


def state(change):
    """A change of ``state.json``, with a digest that fits."""
    return lambda checkpoint: rewrite(checkpoint, change)


MOMENT = "adam.op_head.0.weight.exp_avg"
DAMAGES = {
    "flipped bit": (flip_a_bit, "the SHA-256 digest of its content differs"),
    "missing file": (lambda checkpoint: (checkpoint / "learner.safetensors").unlink(), "cannot be read"),
    "missing state": (lambda checkpoint: (checkpoint / "state.json").unlink(), "cannot be read"),
    "missing optimizer state": (tensors(lambda t: t.pop(MOMENT)), f"tensor {MOMENT} is missing"),
    "nan moments": (tensors(lambda t: t[MOMENT].fill_(torch.nan)), f"tensor {MOMENT} has nan at [0, 0]"),
    "shape": (tensors(lambda t: t.update({MOMENT: t[MOMENT].T.contiguous()})), f"tensor {MOMENT} has shape"),
    "type": (tensors(lambda t: t.update({MOMENT: t[MOMENT].double()})), f"tensor {MOMENT} has type float64"),
    "additional tensor": (tensors(lambda t: t.update(extra=t[MOMENT].clone())), "tensor extra is not one of the"),
    "boolean": (state(lambda s: s["numbers"].update(updates=True)), "numbers.updates: Input should be a valid integer"),
    "negative": (
        state(lambda s: s["position"]["rounds"].update(size=-1)),
        "position.rounds.size: Input should be greater",
    ),
    "huge offset": (state(lambda s: s["numbers"].update(reward_offset=1e300)), "reward_offset: Input should be less"),
    "huge returns": (state(lambda s: s["numbers"]["return_moments"][1].__setitem__(0, 1e300)), "mean 0 is 1e+300"),
    "huge features": (state(lambda s: s["numbers"]["base_moments"][2].__setitem__(0, 1e308)), "squares 0 is 1e+308"),
    "steps": (state(lambda s: s["progress"].update(env_steps=0)), "progress.env_steps is 0, by rounds.csv it is"),
    "best": (state(lambda s: s["progress"].update(best={})), "progress.best is empty although there are rounds"),
    "best round": (state(lambda s: s["progress"].update(best_round={})), "best_round is {}, by rounds.csv it is {"),
    "best policy": (
        state(lambda s: s["progress"]["best_round"].update(checkpoint=99)),
        "progress.best_round.checkpoint is 99, round ",
    ),
    "other length": (state(lambda s: s["position"]["rounds"].update(size=9)), "round-00003 cannot be used: "),
}


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run of three rounds."""
    folder = tmp_path_factory.mktemp("whole")
    assert train_below(folder, "--rounds", "3", "--run-id", "run").code == 0
    return folder / "run"


@pytest.fixture
def run(whole, tmp_path):
    """A copy of it whose last round was not finished."""
    copy = RunDirectory.open(shutil.copytree(whole, tmp_path / "runs" / "run"))
    copy.write_manifest(copy.read_manifest() | {"status": "failed"})
    return copy.path


def assert_refused(answer, message, *more):
    assert answer.code == 2
    assert "Traceback" not in answer.err
    text = " ".join(answer.err.split())
    for part in (message, *more):
        assert part in text, text


@pytest.mark.parametrize("name", rest_at_night(DAMAGES, 5))
def test_a_damaged_checkpoint_is_not_resumed_and_the_run_stays(run, name):
    damage, message = DAMAGES[name]
    damage(run / "checkpoints" / "round-00003")
    before = files(run)
    command = f"esper train ppo --resume {run} --checkpoint round-00002"
    hint = f"the newest intact checkpoint is round-00002: {command}"
    assert_refused(call("train", "ppo", "--serial", "--resume", run), message, f"{run}/checkpoints/round-00003", hint)
    with pytest.raises(CheckpointError, match="the newest intact checkpoint is round-00002"):
        esper_ray.train(RunDirectory.open(run).config(), run=run)
    assert files(run) == before


@pytest.mark.parametrize("name", rest_at_night(["flipped bit", "missing state", "missing optimizer state", "boolean"]))
def test_a_damaged_checkpoint_is_neither_evaluated_nor_exported(run, name, tmp_path):
    damage, message = DAMAGES[name]
    damage(run / "checkpoints" / "round-00003")
    before, bundle = files(run), tmp_path / "t.esper"
    advice = f"round-00002: name {run}/checkpoints/round-00002 as the policy"
    for policy in (run, run / "checkpoints" / "round-00003"):
        answer = call("evaluate", policy, "--seeds", "2", "--serial", "--out", tmp_path / "evaluation")
        assert_refused(answer, message, advice)
    command = f"esper export-policy {run} {bundle} --round 2"
    assert_refused(call("export-policy", run, bundle), message, f"round-00002: {command}")
    assert (files(run), bundle.exists(), (tmp_path / "evaluation").exists()) == (before, False, False)
    assert call("export-policy", run, bundle, "--round", "2").code == 0


@pytest.mark.nightly
def test_an_older_checkpoint_is_resumed_to_the_same_end(run, whole):
    flip_a_bit(run / "checkpoints" / "round-00003")
    (run / "checkpoints" / "round-00002" / "state.json").unlink()
    answer = call("train", "ppo", "--serial", "--resume", run, "--checkpoint", "round-00001")
    assert answer.code == 0, answer.err
    for name in ("rounds.csv", "checkpoints/round-00003/learner.safetensors"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()
    directories = RunDirectory.open(run), RunDirectory.open(whole)
    assert list(directories[0].events()) == list(directories[1].events())
    assert directories[0].read_manifest()["policy_sha256"] == directories[1].read_manifest()["policy_sha256"]


def test_a_finished_run_is_resumed_from_an_older_checkpoint_of_its_name(whole, tmp_path):
    run = RunDirectory.open(shutil.copytree(whole, tmp_path / "runs" / "run"))
    result = esper_ray.train(run.config(), run=run, checkpoint="round-00002")
    assert (result.status, result.progress.round_index) == ("finished", 3)
    assert (run.path / "rounds.csv").read_bytes() == (whole / "rounds.csv").read_bytes()


def test_later_checkpoints_are_removed_when_an_older_one_is_resumed(run):
    path = run / "checkpoints"
    stopped = esper_ray.train(
        RunDirectory.open(run).config(), run=run, checkpoint="round-00001", should_stop=lambda: True
    )
    assert stopped.status == "interrupted"
    assert [checkpoint.name for checkpoint in checkpoints_in(path)] == ["round-00001"]
    assert len(RunDirectory.open(run).rounds()) == 1


def test_an_older_checkpoint_is_resumed_with_a_copy_in_a_storage(whole, tmp_path):
    run = RunDirectory.open(shutil.copytree(whole, tmp_path / "runs" / "run"))
    storage = tmp_path / "storage"
    esper_ray.train(run.config(), run=run, checkpoint="round-00002", storage=str(storage))
    rewrite(run.checkpoints / "round-00003", change_tensors=lambda t: t.pop(MOMENT))
    esper_ray.train(run.config(), run=run, checkpoint="round-00002")
    for name in ("rounds.csv", "checkpoints/round-00003/learner.safetensors"):
        assert (run.path / name).read_bytes() == (whole / name).read_bytes()
    stored = storage / "run" / "checkpoints" / "round-00003" / "learner.safetensors"
    assert stored.read_bytes() == (whole / "checkpoints" / "round-00003" / "learner.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "round-00009"], "has no checkpoint 'round-00009'; there are: round-00001, round-00002"),
        (["--checkpoint", "../run"], "has no checkpoint '../run'; there are: round-00001"),
    ],
)
def test_a_checkpoint_that_does_not_exist_is_refused_with_the_others(run, arguments, message):
    before = files(run)
    assert_refused(call("train", "ppo", "--serial", "--resume", run, *arguments), message)
    assert files(run) == before


def test_a_checkpoint_without_a_run_is_refused(run, tmp_path):
    assert_refused(
        call("train", "ppo", "--checkpoint", "round-00001"), "--checkpoint round-00001 belongs to --resume RUN"
    )
    config = RunDirectory.open(run).config()
    for place in (None, tmp_path / "new"):
        with pytest.raises(UsageError, match="checkpoint round-00001: there is no run to resume"):
            prepare_run(config, place, checkpoint="round-00001")
    assert not (tmp_path / "new").exists()


def test_a_run_without_any_intact_checkpoint_says_so(run):
    for checkpoint in (run / "checkpoints").iterdir():
        flip_a_bit(checkpoint)
    assert_refused(call("train", "ppo", "--serial", "--resume", run), "differs", "no checkpoint of the run can be used")


def test_a_trial_goes_back_to_an_intact_checkpoint_and_records_the_fault(run):
    flip_a_bit(run / "checkpoints" / "round-00003")
    config = RunDirectory.open(run).config()
    prepared = prepare_run(config, run, is_trial=True)
    assert prepared.rounds_done == 2
    esper_ray.train(config, run=prepared)
    (fault,) = RunDirectory.open(run).faults()
    assert (fault.kind, fault.who) == ("checkpoint_damaged", str(run / "checkpoints" / "round-00003"))
    assert "the newest intact checkpoint is round-00002" in fault.detail


def test_a_copy_with_later_rounds_than_the_directory_is_never_cut(run, tmp_path):
    """Only checkpoints that the directory has too are removed from the copy."""
    from esper_ray.nissa.runs.copies.remote_copy import RemoteCopy
    from esper_ray.nissa.runs.copies.storage import Storage

    directory = RunDirectory.open(run)
    RemoteCopy(Storage(tmp_path / "storage"), directory).push()
    shutil.rmtree(run / "checkpoints" / "round-00003")
    before = files(tmp_path / "storage")
    with pytest.raises(StorageError, match="it stays unchanged"):
        RemoteCopy(Storage(tmp_path / "storage"), directory).remove_later(1)
    assert files(tmp_path / "storage") == before
