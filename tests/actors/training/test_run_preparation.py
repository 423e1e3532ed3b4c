"""Preparation of a run: what is resumed, started again, fetched or refused, and that nothing else is changed."""

import json
import re
import shutil

import pytest
from learner_builders import small_config

import esper_ray
from esper_actors.training.checkpoint import CheckpointError, checkpoints_in
from esper_actors.training.run_preparation import prepare_run, run_by_name
from esper_ray.leyline.config.loading import build
from esper_ray.leyline.errors import UsageError
from esper_ray.nissa.log.parquet import EventLogError
from esper_ray.nissa.runs.copies.lease import LEASE, Lease
from esper_ray.nissa.runs.copies.remote_copy import RemoteCopy
from esper_ray.nissa.runs.copies.storage import Storage, StorageError
from esper_ray.nissa.runs.observer import RunObserver
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.runs.run_files import RunDirectoryError
from esper_ray.nissa.runs.run_lock import LOCK, RunLock, RunLockedError

pytestmark = pytest.mark.integration

CONFIG = small_config(system__workers="local", ppo__rounds=2, ppo__epochs=1)


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run, the same run after its first round, and its copy in a storage."""
    folder = tmp_path_factory.mktemp("runs")
    rounds = []

    class Counting(RunObserver):
        def round_finished(self, row, timing):
            rounds.append(row)

    path, storage = folder / "ahead" / "run", str(folder / "storage")
    esper_ray.train(CONFIG, run=path, storage=storage, observers=[Counting()], should_stop=lambda: len(rounds) == 1)
    shutil.copytree(path, folder / "behind" / "run")
    esper_ray.train(CONFIG, run=path)
    return folder


@pytest.fixture
def copies(runs, tmp_path):
    """Copies of ``runs``, with manifests that name the copied storage."""
    shutil.copytree(runs, tmp_path / "runs")
    for name in ("ahead", "behind"):
        run = RunDirectory.open(tmp_path / "runs" / name / "run")
        run.write_manifest(run.read_manifest() | {"storage": str(tmp_path / "runs" / "storage")})
    return tmp_path / "runs"


def test_the_directory_of_a_new_run_is_made_when_it_is_opened(tmp_path):
    prepared = prepare_run(CONFIG, tmp_path / "runs" / "new")
    assert (prepared.directory, prepared.checkpoint, prepared.is_finished) == (None, None, False)
    assert not (tmp_path / "runs").exists()
    assert prepared.open().path == tmp_path / "runs" / "new"


@pytest.mark.parametrize("start", ["nothing", "first event", "torn event"])
def test_a_run_that_ended_before_its_first_checkpoint_starts_again(runs, tmp_path, start):
    run = RunDirectory.create(tmp_path, CONFIG, ["test"], "run")
    if start != "nothing":
        run.log([{"kind": "run_started", "config_sha256": CONFIG.digest()}])
    if start == "torn event":
        run.event_log.tail.write_text(run.event_log.tail.read_text()[:20])
    (run.path / "notes.txt").write_text("of the user")
    result = esper_ray.train(CONFIG, run=run.path)
    whole = RunDirectory.open(runs / "ahead" / "run")
    assert (run.path / "rounds.csv").read_bytes() == (whole.path / "rounds.csv").read_bytes()
    assert [event["seq"] for event in result.run.events(evidence=True)] == [event["seq"] for event in whole.events()]
    assert (run.path / "notes.txt").read_text() == "of the user"


def test_a_run_with_events_and_no_checkpoint_is_refused_and_stays(tmp_path):
    """Such as one of the heuristic policy."""
    run = RunDirectory.create(tmp_path, CONFIG, ["test"], "heuristic")
    run.log([{"kind": "run_started", "config_sha256": "0"}] * 2)
    before = files(run.path)
    for attempt in (
        lambda: prepare_run(CONFIG, run.path),
        lambda: esper_ray.train(CONFIG, run=run),
        lambda: prepare_run(CONFIG, run_by_name("heuristic", tmp_path, None)),
    ):
        with pytest.raises(CheckpointError, match="heuristic holds no complete checkpoint"):
            attempt()
    assert files(run.path) == before


def test_rounds_without_a_checkpoint_are_refused_and_stay(copies):
    run = RunDirectory.open(copies / "behind" / "run")
    run.write_manifest({**run.read_manifest(), "storage": None})
    for path in checkpoints_in(run.checkpoints):
        shutil.rmtree(path)
    before = files(run.path)
    with pytest.raises(CheckpointError, match="holds no complete checkpoint"):
        prepare_run(CONFIG, run)
    assert files(run.path) == before


def replaced_checkpoint(run):
    path = run.checkpoints / ".round-00002.old"
    path.mkdir()
    (path / "learner.safetensors").write_bytes(b"x")


SAMPLE = {"kind": "samples_lost", "round": 0, "episode": 0, "env": 0, "time": 1.0, "count": 3, "reason": "full"}
LEFT = {
    "a time": (lambda run: (run.path / "timings.csv").write_text("round,ended\n0,1.5\n"), "timings.csv has 18 bytes"),
    "a round": (lambda run: (run.path / "rounds.csv").write_text("round\n0\n"), "rounds.csv has 8 bytes"),
    "samples": (lambda run: run.samples.add([SAMPLE]), "samples.jsonl has 1 lines"),
    "a part of samples": (
        lambda run: (run.samples.add([SAMPLE]), run.samples.compact(always=True)),
        "samples holds 000000000000-000000000000",
    ),
    "a replaced checkpoint": (replaced_checkpoint, "checkpoints holds .round-00002.old, a replaced checkpoint"),
}


@pytest.mark.parametrize("name", LEFT)
def test_a_run_without_checkpoint_with_anything_to_lose_is_refused_and_stays(tmp_path, name):
    run = RunDirectory.create(tmp_path, CONFIG, ["test"], "run")
    leave, message = LEFT[name]
    leave(run)
    before = files(run.path)
    with pytest.raises(CheckpointError, match=f"holds no complete checkpoint, but {re.escape(message)}"):
        prepare_run(CONFIG, run.path)
    assert not RunDirectory.open(run.path).is_disposable()
    assert files(run.path) == before


@pytest.mark.parametrize("name", [".round-00000.tmp", ".round-00001.old"])
def test_an_incomplete_first_checkpoint_is_nothing_to_lose(tmp_path, name):
    run = RunDirectory.create(tmp_path, CONFIG, ["test"], "run")
    (run.checkpoints / name).mkdir()
    if name.endswith(".tmp"):
        (run.checkpoints / name / "learner.safetensors").write_bytes(b"x")
    prepared = prepare_run(CONFIG, run.path)
    prepared.release()
    assert (prepared.checkpoint, run.progress()) == (None, None)


def replaced(file, before, after):
    content = file.read_bytes()
    assert before in content
    file.write_bytes(content.replace(before, after, 1))


CHANGES = {
    "rounds.csv": lambda run: replaced(run.path / "rounds.csv", b"0.", b"7."),
    "timings.csv": lambda run: replaced(run.path / "timings.csv", b"0.", b"7."),
    "events.jsonl": lambda run: replaced(run.event_log.tail, b'"val_loss": ', b'"val_loss": 1'),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_run_whose_tables_or_lines_were_changed_is_refused_and_stays(copies, name):
    run = RunDirectory.open(copies / "behind" / "run")
    run.write_manifest({key: value for key, value in run.read_manifest().items() if key != "storage"})
    CHANGES[name](run)
    before = files(run.path)
    for rounds in (2, 3):
        config = build(CONFIG.model_dump(mode="json"), {"ppo.rounds": rounds})
        with pytest.raises(
            (CheckpointError, EventLogError), match=f"{re.escape(name)} has changed since it was written"
        ):
            prepare_run(config, run.path)
    assert files(run.path) == before


def test_an_extension_that_a_crash_interrupted_is_withdrawn_or_made_once(copies):
    run = RunDirectory.open(copies / "ahead" / "run")
    run.write_manifest({key: value for key, value in run.read_manifest().items() if key != "storage"})
    content = (run.path / "config.yaml").read_bytes()
    more = build(CONFIG.model_dump(mode="json"), {"ppo.rounds": 3, "ppo.schedule_rounds": 2})
    run.extend(more, 2, ["first"])
    (run.path / "config.yaml").write_bytes(content)
    assert run.config() == CONFIG
    prepared = prepare_run(more, run.path, command=["second"])
    prepared.open()
    prepared.release()
    assert [extension["command"] for extension in run.read_manifest()["extensions"]] == [["second"]]
    assert run.config() == more
    (run.path / "config.yaml").write_bytes(content)
    prepared = prepare_run(CONFIG, run.path)
    prepared.open()
    prepared.release()
    assert (run.read_manifest()["extensions"], run.read_manifest()["config"]) == ([], CONFIG.model_dump(mode="json"))


def extension(before, after):
    return {"time": "2026-11-30T00:00:00+00:00", "command": ["test"], "after_round": 2, "rounds": [before, after]}


@pytest.mark.parametrize(
    ("rounds", "extensions", "message"),
    [
        (4, [], "not the configuration in manifest.json: ppo.rounds: 4 -> 2"),
        (4, [extension(2, 3)], "not the configuration in manifest.json: ppo.rounds: 4 -> 2"),
        (1, [extension(2, 1)], "not the configuration in manifest.json: ppo.rounds: 1 -> 2"),
        (4, "x", "extensions: Input should be a valid list, got 'x'"),
        (4, [5], "extensions.0: Input should be a valid dictionary"),
    ],
)
def test_another_configuration_than_in_the_manifest_is_refused_and_stays(copies, rounds, extensions, message):
    run = RunDirectory.open(copies / "ahead" / "run")
    tree = run.read_manifest()
    recorded = build(tree["config"], {"ppo.rounds": rounds}).model_dump(mode="json")
    run.write_manifest(tree | {"config": recorded, "extensions": extensions})
    before = files(run.path)
    with pytest.raises(RunDirectoryError, match=message):
        prepare_run(CONFIG, run.path)
    assert files(run.path) == before


@pytest.mark.parametrize("name", ["rounds.csv", "timings.csv"])
def test_a_copy_with_a_changed_digit_is_fetched_and_refused(copies, name):
    for piece in (copies / "storage" / "run" / f"{name}.parts").iterdir():
        piece.write_bytes(piece.read_bytes().replace(b"0.", b"7.", 1))
    with pytest.raises(CheckpointError, match=f"{re.escape(name)} has changed since it was written"):
        prepare_run(CONFIG, copies / "elsewhere" / "run", storage=str(copies / "storage"))


@pytest.mark.parametrize("given", ["storage", "manifest"])
def test_a_run_behind_its_copy_is_refused_and_both_stay(copies, given):
    behind, storage = copies / "behind" / "run", str(copies / "storage")
    before = files(copies)
    with pytest.raises(UsageError, match=r"has 1 finished rounds, its copy in .* has 2: move the directory away"):
        esper_ray.train(CONFIG, run=behind, storage=storage if given == "storage" else None)
    assert files(copies) == before


def test_a_storage_that_cannot_be_read_is_refused_before_the_run_is_changed(copies):
    run = RunDirectory.open(copies / "behind" / "run")
    run.write_manifest(run.read_manifest() | {"storage": "nowhere://bucket"})
    before = files(copies)
    with pytest.raises(StorageError, match="nowhere://bucket cannot be used"):
        prepare_run(CONFIG, run)
    assert files(copies) == before


def test_another_storage_replaces_one_that_cannot_be_read(copies, tmp_path):
    run = RunDirectory.open(copies / "behind" / "run")
    run.write_manifest(run.read_manifest() | {"storage": "nowhere://bucket"})
    result = esper_ray.train(CONFIG, run=run, storage=str(tmp_path / "other"))
    assert result.run.read_manifest()["storage"] == str(tmp_path / "other")
    assert (tmp_path / "other" / "run" / "checkpoints" / "round-00002" / "state.json").is_file()


def test_a_copy_that_is_ahead_is_not_overwritten_by_a_push(copies):
    """As after a storage that could not be read when the run was resumed."""
    storage = Storage(str(copies / "storage"))
    before = files(copies / "storage")
    behind = RemoteCopy(storage, RunDirectory.open(copies / "behind" / "run"))
    for attempt in (behind.push, lambda: behind.rewind({})):
        with pytest.raises(StorageError, match=r"holds round 2, .* holds round 1: it stays unchanged"):
            attempt()
    assert files(copies / "storage") == before


def test_a_run_of_another_configuration_is_refused_in_the_storage_too(copies, tmp_path):
    other = small_config(system__workers="local", ppo__rounds=2, ppo__epochs=1, seed=43)
    storage = str(copies / "storage")
    for path in (copies / "ahead" / "run", tmp_path / "elsewhere" / "run"):
        with pytest.raises(UsageError, match=r"another configuration:\nseed: 42 -> 43"):
            prepare_run(other, path, storage=storage)
    assert not (tmp_path / "elsewhere").exists()


def test_a_prepared_run_is_trained_under_its_own_configuration_only(tmp_path):
    prepared = prepare_run(CONFIG, tmp_path / "run")
    with pytest.raises(ValueError, match="prepared for another configuration"):
        esper_ray.train(CONFIG, rounds=1, run=prepared)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_no_run_is_refused_and_stays(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"cat")
    with pytest.raises(RunDirectoryError, match="photos is not a run directory"):
        esper_ray.train(CONFIG, run=tmp_path / "photos")
    with pytest.raises(RunDirectoryError, match="photos is not a run directory"):
        run_by_name("photos", tmp_path, None)
    assert files(tmp_path) == {tmp_path / "photos" / "cat.png": b"cat"}


class TestOneWriter:
    """Two processes on one run: the second is refused, and neither run nor copy is changed."""

    def test_a_run_that_is_being_run_is_refused_and_stays(self, copies):
        behind = copies / "behind" / "run"
        with RunLock(behind):
            before = files(copies)
            for attempt in (
                lambda: esper_ray.train(CONFIG, run=behind),
                lambda: run_by_name("run", copies / "behind", str(copies / "storage")),
            ):
                with pytest.raises(RunLockedError, match=r"behind/run is being run by process \d+ on"):
                    attempt()
            assert files(copies) == before

    def test_a_new_name_that_another_process_takes_first_is_refused(self, tmp_path):
        first, second = (prepare_run(CONFIG, tmp_path / "run") for _ in range(2))
        first.open()
        with pytest.raises(RunDirectoryError, match="run exists: give the run another name"):
            second.open()
        with pytest.raises(RunLockedError, match="is being run by process"):
            prepare_run(CONFIG, tmp_path / "run")
        first.release()
        assert [path.name for path in tmp_path.iterdir()] == ["run"]

    def test_a_copy_that_is_leased_is_refused_and_nothing_is_fetched(self, copies, tmp_path, monkeypatch):
        prepared = prepare_run(CONFIG, copies / "ahead" / "run")
        monkeypatch.setattr("esper_ray.nissa.runs.copies.lease.RENEWAL_SECONDS", 0.01)
        monkeypatch.setattr("esper_ray.nissa.runs.copies.lease.POLL_SECONDS", 0.05)
        prepared.release()
        lease = Lease(Storage(str(copies / "storage")).within("run"))
        lease.acquire()
        with pytest.raises(RunLockedError, match=r"storage/run is being run by process"):
            prepare_run(CONFIG, tmp_path / "elsewhere" / "run", storage=str(copies / "storage"))
        lease.release()
        assert not (tmp_path / "elsewhere").exists()

    def test_a_run_whose_lease_is_taken_over_ends_and_leaves_the_copy(self, tmp_path):
        storage = tmp_path / "storage"

        class TakingOver(RunObserver):
            def update_started(self):
                lease = json.loads((storage / "run" / LEASE).read_text())
                (storage / "run" / LEASE).write_text(json.dumps(lease | {"owner": "another"}))
                self.before = files(storage)

        observer = TakingOver()
        with pytest.raises(RunLockedError, match="is being run by process"):
            esper_ray.train(CONFIG, run=tmp_path / "run", storage=str(storage), observers=[observer])
        assert files(storage) == observer.before
        assert RunDirectory.open(tmp_path / "run").read_manifest()["status"] == "failed"

    def test_lock_and_lease_are_free_after_the_run(self, tmp_path):
        esper_ray.train(CONFIG, rounds=1, run=tmp_path / "run", storage=str(tmp_path / "storage"))
        assert not (tmp_path / "run" / LOCK).exists()
        assert not (tmp_path / "storage" / "run" / LEASE).exists()
