"""``esper_ray.train``, ``grow`` and ``load_preset``: what a user imports first."""

import os
import subprocess
import sys
import threading

import pytest
import torch
from learner_builders import small_config

import esper_ray
from esper_actors.training.checkpoint import CheckpointError, checkpoints_in
from esper_actors.training.listeners import MetricsObserver
from esper_ray.leyline.config.loading import ConfigError
from esper_ray.leyline.errors import UsageError
from esper_ray.nissa.runs.observer import RunObserver
from esper_ray.nissa.runs.run_directory import RunDirectory

SMALL = {"system__workers": "local", "ppo__rounds": 2, "ppo__epochs": 1}


class Heard(RunObserver):
    def __init__(self):
        self.calls = []

    def run_opened(self, context):
        self.calls.append(("opened", context.rounds_done, context.resumed))

    def run_started(self, context):
        self.calls.append(("started", context.rounds_done, context.resumed))

    def round_finished(self, row, timing):
        self.calls.append(("round", row["round"]))

    def run_ended(self, status):
        self.calls.append(("ended", status))


@pytest.mark.integration
class TestTrain:
    def test_a_run_is_complete_when_train_returns(self, tmp_path):
        observer = Heard()
        result = esper_ray.train(small_config(**SMALL), run=tmp_path / "new", observers=[observer])
        assert result.status == "finished"
        assert result.run.path == tmp_path / "new"
        assert result.run.read_manifest()["status"] == "finished"
        assert len(result.run.rounds()) == 2
        assert result.best["round"] in (0, 1)
        assert result.policy.manifest.weights_sha256 == result.run.read_manifest()["policy_sha256"]
        assert observer.calls == [
            *(("opened", 0, False), ("started", 0, False), ("round", 0), ("round", 1), ("ended", "finished"))
        ]

    def test_rounds_override_the_configuration(self, tmp_path):
        result = esper_ray.train(small_config(**SMALL), rounds=1, run=tmp_path / "run")
        assert len(result.run.rounds()) == 1
        assert result.run.config().ppo.rounds == 1

    def test_a_run_that_stopped_is_resumed_to_the_same_bits(self, tmp_path):
        straight = esper_ray.train(small_config(**SMALL), run=tmp_path / "straight")
        observer = Heard()
        stopped = esper_ray.train(
            small_config(**SMALL),
            run=tmp_path / "run",
            observers=[observer],
            should_stop=lambda: ("round", 0) in observer.calls,
        )
        assert (stopped.status, len(stopped.run.rounds())) == ("interrupted", 1)
        again = Heard()
        resumed = esper_ray.train(small_config(**SMALL), run=tmp_path / "run", observers=[again])
        assert again.calls == [
            *(("opened", 1, True), ("started", 1, True), ("round", 1), ("ended", "finished")),
        ]
        for name in ("rounds.csv", "checkpoints/round-00002/learner.safetensors"):
            assert (resumed.run.path / name).read_bytes() == (straight.run.path / name).read_bytes()

    def test_a_finished_run_is_returned_and_nothing_is_started(self, tmp_path):
        first = esper_ray.train(small_config(**SMALL), rounds=1, run=tmp_path / "run")
        before = (first.run.path / "manifest.json").read_bytes()
        observer = Heard()
        again = esper_ray.train(small_config(**SMALL), rounds=1, run=tmp_path / "run", observers=[observer])
        assert (again.status, again.best, observer.calls) == ("finished", first.best, [])
        assert (first.run.path / "manifest.json").read_bytes() == before

    def test_another_configuration_is_refused_and_the_run_stays_as_it_was(self, tmp_path):
        esper_ray.train(small_config(**SMALL), rounds=1, run=tmp_path / "run")
        before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
        with pytest.raises(UsageError, match=r"another configuration:\nseed: 42 -> 43"):
            esper_ray.train(small_config(**SMALL | {"seed": 43}), rounds=1, run=tmp_path / "run")
        assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before

    def test_a_damaged_checkpoint_is_refused_by_its_path(self, tmp_path):
        result = esper_ray.train(small_config(**SMALL), rounds=1, run=tmp_path / "run")
        newest = checkpoints_in(result.run.checkpoints)[-1]
        (newest / "learner.safetensors").write_bytes(b"torn")
        with pytest.raises(CheckpointError, match="round-00001"):
            esper_ray.train(small_config(**SMALL), rounds=1, run=tmp_path / "run").policy  # noqa: B018

    def test_a_new_run_that_fails_before_its_first_checkpoint_is_removed(self, tmp_path):
        class Refusing(Heard):
            def run_opened(self, context):
                super().run_opened(context)
                raise ValueError("no place for a display")

        refusing, later = Refusing(), Heard()
        with pytest.raises(ValueError, match="no place for a display"):
            esper_ray.train(small_config(**SMALL), run=tmp_path / "run", observers=[refusing, later])
        assert not (tmp_path / "run").exists()
        assert refusing.calls[-1] == ("ended", "failed")
        assert later.calls == []  # it was never opened

    def test_an_observer_of_metrics_records_samples_once(self, tmp_path):
        config = small_config(**SMALL)
        for name, observers in (("own", [MetricsObserver()]), ("default", [])):
            esper_ray.train(config, rounds=1, run=tmp_path / name, observers=observers)
        counts = [
            sum(1 for _ in RunDirectory.open(tmp_path / n).samples.records(evidence=True)) for n in ("own", "default")
        ]
        assert counts[0] == counts[1] > 0

    def test_an_end_that_is_interrupted_stays_finished_and_is_reported_once(self, tmp_path):
        """As a second Ctrl-C does while the picture of a run is drawn."""

        class Leaving(Heard):
            def run_ended(self, status):
                super().run_ended(status)
                raise SystemExit(130)

        leaving, later = Leaving(), Heard()
        with pytest.raises(SystemExit):
            esper_ray.train(small_config(**SMALL), rounds=1, run=tmp_path / "run", observers=[leaving, later])
        assert RunDirectory.open(tmp_path / "run").read_manifest()["status"] == "finished"
        assert [call for call in leaving.calls if call[0] == "ended"] == [("ended", "finished")]
        assert later.calls[-1] == ("ended", "finished")

    def test_a_resumed_run_updates_its_copy_in_the_storage(self, tmp_path):
        observer = Heard()
        config, storage = small_config(**SMALL), str(tmp_path / "storage")
        esper_ray.train(
            config,
            run=tmp_path / "run",
            storage=storage,
            observers=[observer],
            should_stop=lambda: ("round", 0) in observer.calls,
        )
        assert not (tmp_path / "storage" / "run" / "checkpoints" / "round-00002").exists()
        esper_ray.train(config, run=tmp_path / "run")
        assert (tmp_path / "storage" / "run" / "checkpoints" / "round-00002").is_dir()

    def test_a_run_that_exists_in_the_storage_only_is_fetched_and_resumed(self, tmp_path):
        config, storage = small_config(**SMALL), str(tmp_path / "storage")
        first = Heard()
        stop = lambda: ("round", 0) in first.calls  # noqa: E731
        esper_ray.train(config, run=tmp_path / "a" / "run", storage=storage, observers=[first], should_stop=stop)
        second = Heard()
        result = esper_ray.train(config, run=tmp_path / "b" / "run", storage=storage, observers=[second])
        assert (result.status, len(result.run.rounds())) == ("finished", 2)
        assert ("round", 0) not in second.calls
        straight = esper_ray.train(config, run=tmp_path / "straight")
        files = [result.run.path / "rounds.csv", straight.run.path / "rounds.csv"]
        assert files[0].read_bytes() == files[1].read_bytes()

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"training__batch_size": 5000}, "training.batch_size 5000 exceeds"),
            ({"system__device": "cuda:7", "system__devices": ("cuda:7",)}, "device 'cuda:7' does not exist"),
        ],
    )
    def test_what_cannot_run_is_refused_before_anything_is_written(self, tmp_path, changes, message):
        with pytest.raises(UsageError, match=message):
            esper_ray.train(small_config(**SMALL, **changes), run=tmp_path / "runs" / "run")
        assert not (tmp_path / "runs").exists()

    def test_a_new_directory_with_a_foreign_file_is_marked_and_not_removed(self, tmp_path):
        run = RunDirectory.create(tmp_path, small_config(**SMALL), ["test"], "run")
        (run.path / "notes.txt").write_text("of the user")

        class Refusing(Heard):
            def run_opened(self, context):
                raise ValueError("no place for a display")

        with pytest.raises(ValueError, match="no place"):
            esper_ray.train(small_config(**SMALL), run=run, observers=[Refusing()])
        assert (run.path / "notes.txt").read_text() == "of the user"
        assert run.read_manifest()["status"] == "failed"

    def test_an_interrupted_first_round_has_no_best_round(self, tmp_path):
        result = esper_ray.train(small_config(**SMALL), run=tmp_path / "run", should_stop=lambda: True)
        assert (result.status, result.best) == ("interrupted", {})

    def test_a_group_that_was_never_opened_leaves_the_threads_of_torch(self):
        from esper_actors.training.local import LocalWorkerGroup

        alone = LocalWorkerGroup(small_config(**SMALL)).learner.weights()
        torch.set_num_threads(2)
        try:
            weights = LocalWorkerGroup(small_config(**SMALL)).learner.weights()
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(1)
        assert all(torch.equal(weights[name], tensor) for name, tensor in alone.items())

    def test_the_threads_of_torch_are_those_of_before(self, tmp_path):
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            esper_ray.train(small_config(**SMALL), rounds=1, run=tmp_path / "run")
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(before)

    def test_it_may_be_called_from_another_thread(self, tmp_path):
        results = []
        thread = threading.Thread(
            target=lambda: results.append(esper_ray.train(small_config(**SMALL), rounds=1, run=tmp_path / "run"))
        )
        thread.start()
        thread.join()
        assert [result.status for result in results] == ["finished"]

    def test_an_observer_that_raises_is_dropped_and_becomes_a_fault(self, tmp_path, monkeypatch):
        monkeypatch.delenv("ESPER_STRICT_TELEMETRY")

        class Broken(Heard):
            def round_finished(self, row, timing):
                super().round_finished(row, timing)
                raise ValueError("no room")

        broken, sound = Broken(), Heard()
        result = esper_ray.train(small_config(**SMALL), run=tmp_path / "run", observers=[broken, sound])
        assert result.status == "finished"
        assert [call for call in broken.calls if call[0] == "round"] == [("round", 0)]
        assert [call for call in sound.calls if call[0] == "round"] == [("round", 0), ("round", 1)]
        assert (
            '"kind": "observer_failed", "who": "Broken", "detail": "ValueError: no room"'
            in (result.run.path / "faults.jsonl").read_text()
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": "local"}, "workers takes a worker group; set system.workers .* got 'local'"),
        ({"observers": Heard()}, "observers takes a list of observers, got "),
        ({"observers": [Heard]}, "observers takes objects of classes derived from RunObserver, got <class"),
    ],
)
def test_an_argument_of_another_type_is_refused_before_anything_is_written(tmp_path, arguments, message):
    with pytest.raises(TypeError, match=message):
        esper_ray.train(small_config(**SMALL), run=tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


def test_a_name_in_place_of_a_configuration_is_refused_with_the_remedy():
    with pytest.raises(TypeError, match=r"load_preset\('digits'\), got 'digits'"):
        esper_ray.train("digits")


def test_a_preset_is_loaded_with_overrides():
    config = esper_ray.load_preset("digits", {"ppo.rounds": 3})
    assert (config.name, config.ppo.rounds) == ("digits", 3)
    with pytest.raises(ConfigError, match="did you mean 'digits'"):
        esper_ray.load_preset("digts")


def test_the_public_names_are_listed_before_they_are_used():
    assert {"train", "grow", "load_preset"} <= set(dir(esper_ray))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        esper_ray.trian  # noqa: B018


@pytest.fixture
def foreign(tmp_path):
    """Run Python in a folder that holds packages called actors, policies and configs, none of them ours."""
    for name in ("actors", "policies", "configs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('a foreign package')\n")
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH" and not key.startswith("RAY_")}

    def run(*words, **more):
        return subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            env=clean | more,
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )

    return run


SHORT = ["--rounds", "1", "--envs", "1", "--episode-length", "3", "--memory-size", "16", "--ppo-epochs", "1"]
SHORT += ["--set", "training.steps_per_epoch=2", "--telemetry-dir", "runs"]


@pytest.mark.nightly
@pytest.mark.slow
def test_foreign_packages_of_our_folder_names_do_not_shadow_us(foreign, tmp_path):
    (tmp_path / "script.py").write_text(
        "import sys\n"
        "from esper_ray import train, grow, load_preset\n"
        "from esper_ray.growing import grow as same\n"
        "from esper_ray.cli.main import main\n"
        "print(load_preset('digits').name, grow is same)\n"
        "main()\n"
    )
    trained = foreign("script.py", "train", "ppo", "--serial", *SHORT)
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout.startswith("digits True\n")
    assert (next((tmp_path / "runs").iterdir()) / "rounds.csv").is_file()


@pytest.mark.nightly
@pytest.mark.ray
@pytest.mark.slow
def test_ray_workers_are_not_shadowed_by_foreign_packages_either(foreign, tmp_path, ray_cluster):
    import ray

    shared = ("RAY_AUTH", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")  # what a process on the loopback cluster needs
    settings = {name: value for name, value in os.environ.items() if name.startswith(shared)}
    settings["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    trained = foreign("-m", "esper_ray", "train", "ppo", *SHORT, **settings)
    assert trained.returncode == 0, trained.stderr
    assert "environment actors 1 on cpu" in trained.stdout
    assert (next((tmp_path / "runs").iterdir()) / "rounds.csv").is_file()
