"""Runs that are watched as closely as their configuration says."""

from esper_actors.factory import make_workers
from esper_actors.training.checkpoint import checkpoints_in, load_checkpoint
from esper_actors.training.controller import Controller
from esper_actors.training.observing import observed

from esper_ray.nissa.runs.run_directory import RunDirectory


class Telling:
    """Remembers, in one list, what was heard and what an exporter was shown."""

    def __init__(self):
        self.heard, self.changes = [], []

    def episode_finished(self, episode):
        self.heard.append(("episode", episode.index))

    def updating(self):
        self.heard.append(("updating",))

    def fault_happened(self, fault):
        self.heard.append(("fault", fault.kind))

    def round_finished(self, row, timing):
        self.heard.append(("round", row["round"]))

    def apply(self, changes):
        for change in changes:
            self.changes.append(change)
            self.heard.append((change.metric, change.labels, change.value))

    def close(self):
        pass


def watched_run(config, folder, level, *, serial=True, resume=None, rounds=None, **telemetry):
    """Play the rounds of ``config``; run directory, digest of the weights, and what was told."""
    config = config.model_copy(update={"telemetry": config.telemetry.model_copy(update={"level": level, **telemetry})})
    run = resume or RunDirectory.create(folder, config, ["test"])
    telling = Telling()
    exporter = None if level == "off" else telling
    metrics = None if level == "off" else run.names

    def stop():
        return rounds is not None and len([one for one in telling.heard if one[0] == "round"]) >= rounds

    with (
        make_workers(config, serial=serial, metrics=metrics) as crew,
        observed(config, run, exporter, telling) as watching,
    ):
        controller = Controller(config, crew, run, watching, stop, None, watching)
        if resume is None:
            controller.start()
        else:
            controller.resume(load_checkpoint(checkpoints_in(run.checkpoints)[-1], config))
        controller.run()
        return run, controller.weights_digest(), telling


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
