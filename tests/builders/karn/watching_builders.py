"""Runs with the telemetry of their configuration."""

from run_builders import placed

from esper_actors.session import train
from esper_actors.training.checkpoint import checkpoints_in, load_checkpoint
from esper_actors.training.listeners import MetricsObserver
from esper_policies.bundle import weights_digest
from esper_ray.nissa.runs.observer import RunObserver
from esper_ray.nissa.runs.run_directory import RunDirectory


class RecordingObserver(RunObserver):
    """Observer that records events and exported batches in one list."""

    def __init__(self):
        self.entries, self.changes = [], []

    def episode_finished(self, episode):
        self.entries.append(("episode", episode.index))

    def update_started(self):
        self.entries.append(("updating",))

    def fault_occurred(self, fault):
        self.entries.append(("fault", fault.kind))

    def round_finished(self, row, timing):
        self.entries.append(("round", row["round"]))

    def apply(self, changes):
        for change in changes:
            self.changes.append(change)
            self.entries.append((change.metric, change.labels, change.value))

    def close(self):
        pass


def watched_run(config, folder, level, *, workers="local", resume=None, rounds=None, **telemetry):
    """Play the rounds of ``config``; run directory, digest of the weights, and observer."""
    config = placed(config, workers)
    config = config.model_copy(update={"telemetry": config.telemetry.model_copy(update={"level": level, **telemetry})})
    run = resume or RunDirectory.create(folder, config, ["test"])
    observer = RecordingObserver()

    def stop():
        return rounds is not None and len([entry for entry in observer.entries if entry[0] == "round"]) >= rounds

    exporters = [] if level == "off" else [observer]
    observers = [MetricsObserver(exporters=exporters), observer]
    train(config, run=run, observers=observers, should_stop=stop)
    state = load_checkpoint(checkpoints_in(run.checkpoints)[-1], config)
    return run, weights_digest(state.learner.weights()), observer


def event_records(run, without=("control",)):
    """Records of the event log without run name and sequence numbers, and without the kinds in ``without``."""
    hidden = ("run", "seq", "source_seq")
    return [
        {name: value for name, value in event.items() if name not in hidden}
        for event in run.events(evidence=True)
        if event["kind"] not in without
    ]


def samples(run, kind):
    """Samples of a kind."""
    return [record for record in run.samples.records(evidence=True) if record["kind"] == kind]
