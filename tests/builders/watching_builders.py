"""Runs with the telemetry of their configuration."""

from run_builders import placed

from esper_actors.session import TrainingSession, checkpoint_to_resume
from esper_actors.training.checkpoint import checkpoints_in, load_checkpoint
from esper_actors.training.listeners import MetricsObserver
from esper_policies.bundle import weights_digest
from esper_ray.nissa.runs.observer import RunObserver
from esper_ray.nissa.runs.run_directory import RunDirectory


class Telling(RunObserver):
    """Observer that records events and exported batches in one list."""

    def __init__(self):
        self.heard, self.changes = [], []

    def episode_finished(self, episode):
        self.heard.append(("episode", episode.index))

    def update_started(self):
        self.heard.append(("updating",))

    def fault_occurred(self, fault):
        self.heard.append(("fault", fault.kind))

    def round_finished(self, row, timing):
        self.heard.append(("round", row["round"]))

    def apply(self, changes):
        for change in changes:
            self.changes.append(change)
            self.heard.append((change.metric, change.labels, change.value))

    def close(self):
        pass


def watched_run(config, folder, level, *, workers="local", resume=None, rounds=None, **telemetry):
    """Play the rounds of ``config``; run directory, digest of the weights, and what was observed."""
    config = placed(config, workers)
    config = config.model_copy(update={"telemetry": config.telemetry.model_copy(update={"level": level, **telemetry})})
    run = resume or RunDirectory.create(folder, config, ["test"])
    checkpoint = None if resume is None else checkpoint_to_resume(resume, config)
    telling = Telling()

    def stop():
        return rounds is not None and len([entry for entry in telling.heard if entry[0] == "round"]) >= rounds

    exporters = [] if level == "off" else [telling]
    observers = [MetricsObserver(exporters=exporters), telling]
    TrainingSession(config, run, checkpoint, observers=observers).run(stop)
    state = load_checkpoint(checkpoints_in(run.checkpoints)[-1], config)
    return run, weights_digest(state.learner.weights()), telling


def told(run, without=("control",)):
    """The event log without the name of the run, its numbers, and what only those who watch ask for."""
    hidden = ("run", "seq", "source_seq")
    return [
        {name: value for name, value in event.items() if name not in hidden}
        for event in run.events(evidence=True)
        if event["kind"] not in without
    ]


def samples(run, kind):
    """Samples of a kind."""
    return [record for record in run.samples.everything(evidence=True) if record["kind"] == kind]
