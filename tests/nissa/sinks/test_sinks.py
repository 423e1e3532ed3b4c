"""Each sink offline: its files are read back with the tracker's own reader."""

import json
import struct
import time

import pytest
from PIL import Image

from esper_ray.nissa.sinks.mlflow_tracking import MlflowSink
from esper_ray.nissa.sinks.protocol import RunFacts
from esper_ray.nissa.sinks.registry import SINKS, SinkError, check_sinks
from esper_ray.nissa.sinks.tensorboard_files import TensorBoardSink
from esper_ray.nissa.sinks.weights_and_biases import WandbSink

pytestmark = pytest.mark.integration

CONFIG = {"seed": 42, "ppo.lr": 0.0003, "growth.slots": ["r0c0"]}
ROUNDS = ({"round/accuracy": 0.5, "ppo/kl": 0.01}, {"round/accuracy": 0.75, "ppo/kl": 0.02})


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "summary.png"
    Image.new("RGB", (8, 4), (255, 0, 0)).save(path)
    return path


def written(sink, folder, picture=None, first=0, status="finished", run="r"):
    """Deliver a run of two rounds that begins with round ``first``."""
    folder.mkdir(exist_ok=True)
    sink.open(RunFacts(run, "", folder, CONFIG, first))
    for index, values in enumerate(ROUNDS):
        sink.round(values, first + index)
    sink.close(status, picture)


class TestTensorBoard:
    def read(self, folder):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(folder / "tensorboard"))
        events.Reload()
        return events

    def test_tensorboard_files_hold_scalars_configuration_status_and_picture(self, tmp_path, picture):
        written(TensorBoardSink(), tmp_path / "r", picture)
        events = self.read(tmp_path / "r")
        assert [(e.step, e.value) for e in events.Scalars("round/accuracy")] == [(0, 0.5), (1, 0.75)]
        assert [e.value for e in events.Scalars("ppo/kl")] == pytest.approx([0.01, 0.02])
        (image,) = events.Images("summary")
        assert (image.width, image.height) == (8, 4)
        texts = {tag: events.Tensors(tag)[-1].tensor_proto.string_val[0].decode() for tag in events.Tags()["tensors"]}
        assert texts["status/text_summary"] == "finished"
        assert '    growth.slots: ["r0c0"]' in texts["config/text_summary"]

    def test_repeated_rounds_replace_the_earlier_ones(self, tmp_path):
        written(TensorBoardSink(), tmp_path / "r", first=4)
        written(TensorBoardSink(), tmp_path / "r", first=5)
        events = self.read(tmp_path / "r")
        assert [(e.step, e.value) for e in events.Scalars("round/accuracy")] == [(4, 0.5), (5, 0.5), (6, 0.75)]


@pytest.mark.integration
class TestMLflow:
    @pytest.fixture(autouse=True)
    def _here(self, monkeypatch):
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")

    def runs(self, place, experiment="esper-ray"):
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=place)
        return client, client.search_runs([client.get_experiment_by_name(experiment).experiment_id])

    def test_the_mlflow_store_holds_metrics_parameters_and_picture(self, tmp_path, picture):
        written(MlflowSink(), tmp_path / "r", picture)
        client, (run,) = self.runs((tmp_path / "mlruns").as_uri())
        history = client.get_metric_history(run.info.run_id, "round/accuracy")
        assert [(m.step, m.value) for m in history] == [(0, 0.5), (1, 0.75)]
        assert run.data.params == {"seed": "42", "ppo.lr": "0.0003", "growth.slots": "['r0c0']"}
        assert (run.info.status, run.info.run_name, run.data.tags["esper.status"]) == ("FINISHED", "r", "finished")
        assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["summary.png"]

    def test_a_resumed_run_stays_one_mlflow_run(self, tmp_path):
        written(MlflowSink(), tmp_path / "r", status="interrupted")
        written(MlflowSink(), tmp_path / "r", first=2)
        client, (run,) = self.runs((tmp_path / "mlruns").as_uri())
        assert run.info.status == "FINISHED"
        assert [m.step for m in client.get_metric_history(run.info.run_id, "ppo/kl")] == [0, 1, 2, 3]

    def test_mlflow_variables_set_store_and_experiment(self, tmp_path, monkeypatch):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "elsewhere").as_uri())
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
        written(MlflowSink(), tmp_path / "r", status="failed")
        _, (run,) = self.runs((tmp_path / "elsewhere").as_uri(), "mine")
        assert run.info.status == "FAILED"
        assert not (tmp_path / "mlruns").exists()

    def test_many_parameters_are_logged_in_batches(self, tmp_path):
        (tmp_path / "r").mkdir()
        sink = MlflowSink()
        sink.open(RunFacts("r", "", tmp_path / "r", {f"key{number}": number for number in range(250)}))
        sink.close("finished", None)
        _, (run,) = self.runs((tmp_path / "mlruns").as_uri())
        assert len(run.data.params) == 250


@pytest.mark.integration
class TestWandb:
    @pytest.fixture(autouse=True)
    def _offline(self, monkeypatch):
        monkeypatch.setenv("WANDB_MODE", "offline")
        monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
        monkeypatch.delenv("WANDB_PROJECT", raising=False)

    @pytest.mark.nightly
    def test_the_wandb_file_holds_history_configuration_and_exit_code(self, tmp_path, picture):
        written(WandbSink(), tmp_path / "r", picture)
        (file,) = (tmp_path / "r" / "wandb").glob("offline-run-*/run-r.wandb")
        run_records = complete_records(file)
        history = [
            {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            for record in run_records
            if record.WhichOneof("record_type") == "history"
        ]
        logged = [{name: row[name] for name in ("_step", *ROUNDS[0])} for row in history]
        assert logged == [{"_step": index, **values} for index, values in enumerate(ROUNDS)]
        assert history[-1]["summary._type"] == "image-file"
        (run,) = [record.run for record in run_records if record.WhichOneof("record_type") == "run"]
        assert (run.project, run.run_id, run.display_name) == ("esper-ray", "r", "r")
        config = {item.key: json.loads(item.value_json) for item in run.config.update}
        assert config.items() >= CONFIG.items()
        (end,) = [record.exit.exit_code for record in run_records if record.WhichOneof("record_type") == "exit"]
        assert end == 0


def complete_records(file, seconds=30.0):
    """The records up to the one of the end; the service of W&B may write for a moment after ``finish`` returns."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = list(records(file))
        if any(record.WhichOneof("record_type") == "exit" for record in found):
            return found
        time.sleep(0.05)
    raise AssertionError(f"no record of the end in {file} after {seconds} s")


def records(file):
    """Records of a W&B run file: seven bytes, then records in the log format of LevelDB."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, parts = file.read_bytes(), 7, b""
    while position < len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        _, size, kind = struct.unpack("<IHB", data[position : position + 7])
        parts += data[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def test_a_missing_package_is_refused_with_its_install_command(monkeypatch):
    monkeypatch.setattr("esper_ray.nissa.sinks.registry.find_spec", lambda name: None if name == "mlflow" else name)
    with pytest.raises(SinkError, match="uv sync --extra mlflow"):
        check_sinks(["tensorboard", "mlflow"])


def test_wandb_without_login_is_refused_before_the_run(monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr("wandb.login", lambda prompt: False)
    with pytest.raises(SinkError, match="wandb login"):
        check_sinks(["wandb"])
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_sinks(SINKS)
