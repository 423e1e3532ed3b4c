"""Records of a run that is followed, and its followers."""

import itertools
import random

from state_builders import finished_round, moved, outcome, report, step

from esper_ray.karn.following import RunFollower
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.state.run_state import RunState


def life(count, seed=0):
    """Records of a run without its first one."""
    rng = random.Random(seed)
    records = []
    for index in range(count):
        env = rng.randrange(3)
        clock = {"env": env, "episode": env, "round": index // 10}
        slots = {"r0c0": report("HOLDING", rng.random(), seed=f"r0c0-{env}")}
        records.append(
            rng.choice(
                [
                    step(number=index + 1, accuracy=rng.random(), reward=rng.random(), slots=slots, **clock),
                    moved("HOLDING", "FOSSILIZED", index, f"r0c0-{env}", **clock),
                    finished_round(index, rng.random()),
                    outcome(env, rng.random(), 40.0, env=env),
                ]
            )
        )
    return records


def followed(run):
    """A follower that has read all that there is."""
    follower = RunFollower(RunDirectory.open(run.path))
    while follower.poll():
        pass
    return follower


def events_state(run):
    """The state of the events of a log."""
    return RunState.of(run.events())


def compacted(run, *lengths):
    """Log the records of a run in several parts."""
    records = iter(life(sum(lengths)))
    for length in lengths:
        run.log(itertools.islice(records, length))
        run.compact(always=True)
