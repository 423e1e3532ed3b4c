"""Records of environments, seeds and rounds for the tests of states, and logs that a strategy generates."""

import dataclasses
import math

from hypothesis import strategies as st
from nissa_builders import complete

from esper_ray.nissa.log.finite import json_record


def step(env=0, number=1, accuracy=50.0, slots=None, **more):
    record = {"kind": "env_epoch", "env": env, "step": number, "val_accuracy_pp": accuracy, "operation": "WAIT"}
    return complete(record | {"slots": slots or {}, "success": True, "log_prob": -0.5} | more)


def moved(source, target, number=1, seed="r0c0-1", **more):
    record = {"kind": "seed_transition", "step": number, "slot": "r0c0", "seed": seed, "from": source, "to": target}
    return complete(record | {"blueprint": "norm", "initiator": "policy"} | more)


def report(stage, contribution=None, alpha=0.5, seed="r0c0-1"):
    values = {"seed": seed, "blueprint": "norm", "stage": stage, "alpha": alpha, "contribution_pp": contribution}
    return values | {"contribution_error_pp": None, "gradient_health": None, "parameters": 12}


def outcome(episode, total_reward, accuracy, **more):
    record = {"kind": "outcome", "episode": episode, "total_reward": total_reward, "val_accuracy_pp": accuracy}
    return complete(record | more)


def finished_round(index, accuracy):
    return complete({"kind": "round", "round": index, "val_accuracy_ratio": accuracy})


def close(first, second):
    """Whether two states are equal, sums to rounding errors."""
    if dataclasses.is_dataclass(first):
        names = [field.name for field in dataclasses.fields(first)]
        return type(first) is type(second) and all(close(getattr(first, n), getattr(second, n)) for n in names)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(close(value, second[key]) for key, value in first.items())
    if isinstance(first, tuple):
        return len(first) == len(second) and all(map(close, first, second))
    if isinstance(first, float):
        return second is not None and math.isclose(first, second, rel_tol=1e-9, abs_tol=1e-9)
    return first == second


class Life:
    """Generator of records of two environments. A seed is born, measured, moved and ended, one at a time in a slot."""

    def __init__(self, draw):
        self.draw, self.records = draw, []
        self.episodes, self.seeds, self.births = [0, 1], [None, None], 0

    def step(self, env, clock):
        seed, amount = self.seeds[env], self.draw(st.floats(-3, 3))
        entry = {"source": self.draw(st.sampled_from("ab")), "slot": None, "amount": amount, "cause_step": 0, "why": ""}
        worth = self.draw(st.none() | st.floats(-9, 9))
        slots = {} if seed is None else {"r0c0": report("HOLDING", worth, seed=seed)}
        accuracy = self.draw(st.floats(0, 100))
        return step(accuracy=accuracy, reward=amount, slots=slots, entries=[entry], **clock)

    def move(self, env, clock):
        if self.seeds[env] is None:
            self.births += 1
            self.seeds[env] = f"r0c0-{self.births}"
            return moved("DORMANT", "GERMINATED", 3, self.seeds[env], **clock)
        seed = self.seeds[env]
        stages = self.draw(
            st.sampled_from([("HOLDING", "FOSSILIZED"), ("HOLDING", "PRUNED"), ("RESETTING", "DORMANT")])
        )
        self.seeds[env] = None if stages[1] == "DORMANT" else seed
        return moved(*stages, 5, seed, **clock)

    def end(self, env, clock):
        return outcome(clock["episode"], self.draw(st.floats(-9, 9)), 50.0, env=env, round=clock["round"])

    def start(self, env, clock):
        self.episodes[env], self.seeds[env] = clock["episode"] + 2, None
        start = {"kind": "episode_started", "env": env, "episode": self.episodes[env], "val_accuracy_pp": 9.0}
        return complete(start)

    def round(self, env, clock):
        return finished_round(len(self.records), self.draw(st.floats(0, 1)))

    def anomaly(self, env, clock):
        subject, opens = self.draw(st.sampled_from("xy")), self.draw(st.booleans())
        record = {"kind": "anomaly", "type": "nonfinite", "subject": subject, "open": opens}
        return complete(record | {"round": len(self.records)})

    def add(self):
        env = self.draw(st.integers(0, 1))
        clock = {"env": env, "episode": self.episodes[env], "round": self.episodes[env] // 2}
        record = self.draw(st.sampled_from([self.step, self.move, self.end, self.start, self.round, self.anomaly]))
        self.records.append(json_record(record(env, clock)))


@st.composite
def lives(draw):
    """Records of a log, which need not begin with the first one of an episode."""
    life = Life(draw)
    for _ in range(draw(st.integers(1, 16))):
        life.add()
    return life.records
