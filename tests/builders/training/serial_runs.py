"""Small runs in this process, new or resumed, and their results."""

from learner_builders import small_config

from esper_actors.training.checkpoint import checkpoints_in, load_checkpoint
from esper_actors.training.controller import Controller
from esper_actors.training.local import LocalWorkerGroup
from esper_ray.nissa.runs.observer import RunObserver
from esper_ray.nissa.runs.run_directory import RunDirectory

SETTINGS = {"ppo__rounds": 3, "ppo__epochs": 1, "ppo__epsilon_start": 0.1, "ppo__checkpoints_kept": 2}


class Watcher(RunObserver):
    """Observer that records the events of a run, and may request a stop."""

    def __init__(self, stop_after=None):
        self.events = []
        self.rows = []
        self.stop_checks = 0
        self.stop_after = stop_after

    def episode_finished(self, episode):
        self.events.append(("episode", episode.index))

    def fault_occurred(self, fault):
        self.events.append(("fault", fault.kind))

    def update_started(self):
        self.events.append(("updating",))

    def round_finished(self, row, timing):
        self.events.append(("round", row["round"]))
        self.rows.append((row, timing))

    def should_stop(self):
        self.stop_checks += 1
        return self.stop_after is not None and self.stop_after(self)


def run(folder, resume=None, stop_after=None, **changes):
    """A run from its beginning, or from the newest checkpoint of ``resume``, with a new worker group and controller."""
    config = small_config(**(SETTINGS | changes))
    watcher = Watcher(stop_after)
    directory = RunDirectory.create(folder, config, ["test"]) if resume is None else RunDirectory.open(resume)
    with LocalWorkerGroup(config) as workers:
        controller = Controller(config, workers, directory, watcher, watcher.should_stop)
        if resume is None:
            controller.start()
        else:
            controller.resume(load_checkpoint(checkpoints_in(directory.checkpoints)[-1], config))
        done = controller.run()
        return directory, controller, watcher, done


def rounds_csv(directory):
    return (directory.path / "rounds.csv").read_bytes()


def events(directory):
    """The event log without the name of the run."""
    return [{key: value for key, value in event.items() if key != "run"} for event in directory.events()]
