"""A recorded run with everything that Sanctum shows, and programs that show it."""

import json
import os
from dataclasses import replace

from learner_builders import small_config
from nissa_builders import complete
from state_builders import moved, outcome, step

from esper_ray.karn.sanctum.command import CommandState
from esper_ray.karn.sanctum.palette import palette
from esper_ray.karn.sanctum.watch import watch_of
from esper_ray.leyline.actions import HEADS
from esper_ray.nissa.runs.live_steps import LiveSteps
from esper_ray.nissa.runs.run_directory import RunDirectory

NAME = "digits-s42"
ENVS, STEPS, ROUNDS = 8, 12, 3
SLOTS = ("r0c0", "r0c1", "r0c2")
BLUEPRINTS = ("conv_light", "norm", "bottleneck", "depthwise")
LIFE = {1: "GERMINATED", 2: "TRAINING", 5: "BLENDING", 8: "HOLDING", 10: "FOSSILIZED"}
"""Stage that a seed enters, by steps since its germination."""
PULSE = {
    "phase": "playing", "since": 1.0, "moved": 1.0, "round": 3, "rounds": 11, "episodes": 2, "of": 8,
    "telemetry": "normal", "status": "running", "links": {}, "beat": 1, "time": 1.0, "pid": 4711, "host": "box",
}  # fmt: skip


def config():
    """Three slots and eleven rounds of eight environments."""
    changes = {"system__envs": ENVS, "ppo__rounds": 11, "growth__slots": list(SLOTS)}
    return small_config(**changes)


def germination(env, column):
    """Step at which the seed of a slot germinates; ``None``: the slot stays empty."""
    return None if (env + column) % 4 == 3 else 1 + (env + 2 * column) % 5


def stage_at(env, column, number):
    """Stage of a slot after a step, and whether it is entered at that step."""
    born = germination(env, column)
    if born is None or number < born:
        return None, False
    if env == 3 and column == 1 and number - born >= 9:
        return "PRUNED", number - born == 9
    ages = [age for age in LIFE if age <= number - born + 1]
    return LIFE[ages[-1]], number - born + 1 in LIFE


def slot_report(env, column, stage, number):
    name = SLOTS[column]
    worth = None if stage in ("GERMINATED", "TRAINING") else 1.5 * number - 3.0 * column - env
    return {
        "seed": f"{name}-1", "blueprint": BLUEPRINTS[(env + column) % 4], "stage": stage,
        "alpha": 0.0 if worth is None else min(1.0, number / 10), "contribution_pp": worth,
        "contribution_error_pp": None if worth is None else 0.7, "gradient_health": 0.9, "parameters": 12 + 30 * column,
    }  # fmt: skip


def episode(index, env, steps=STEPS):
    """Records of one episode, in order."""
    clock = {"round": index, "episode": index * ENVS + env, "env": env}
    host = {"total_parameters": 160, "growth_ratio": 1.0, "val_accuracy_pp": 11.0, "committed_accuracy_pp": 11.0}
    records = [complete({"kind": "episode_started", "seed": 100 + env, "val_loss": 2.3, **clock, **host})]
    for number in range(1, steps + 1):
        slots, operation, slot = {}, "WAIT", None
        for column, name in enumerate(SLOTS):
            stage, entered = stage_at(env, column, number)
            if stage is None:
                continue
            slots[name] = slot_report(env, column, stage, number)
            if entered:
                before = {"GERMINATED": "DORMANT"}.get(
                    stage, "HOLDING" if stage in ("FOSSILIZED", "PRUNED") else "TRAINING"
                )
                records += seed_events(before, stage, number, name, slots[name]["blueprint"], clock)
                named = {"GERMINATED": "GERMINATE", "FOSSILIZED": "FOSSILIZE", "PRUNED": "PRUNE"}
                operation, slot = (named[stage], name) if stage in named else (operation, slot)
        accuracy = 12.0 + 2.5 * number + 1.5 * env + 2.0 * index
        entries = [
            {"source": "gain", "slot": slot, "amount": 0.02 * number, "cause_step": number - 1, "why": "accuracy rose"},
            {"source": "rent", "slot": None, "amount": -0.005, "cause_step": 0, "why": "12 extra parameters"},
        ]
        more = {"entries": entries, "reward": 0.02 * number - 0.005, "value": 0.1, "operation": operation, "slot": slot}
        more |= {"committed_accuracy_pp": accuracy - 4, "total_parameters": 160 + 30 * len(slots), "val_loss": 1.5}
        more |= {"growth_ratio": 1.0 + 0.2 * len(slots), "success": not (env == 7 and operation == "FOSSILIZE")}
        records.append(step(number=number, accuracy=accuracy, slots=slots, **clock, **more))
    return records


def seed_events(before, stage, number, name, blueprint, clock):
    gate = {
        "kind": "gate",
        "step": number,
        "slot": name,
        "seed": f"{name}-1",
        "gate": "G2",
        "passed": stage != "PRUNED",
    }
    check = {"name": "contribution", "value": 1.2, "threshold": 1.0, "margin": 0.2, "passed": stage != "PRUNED"}
    initiator = "policy" if stage in ("GERMINATED", "FOSSILIZED", "PRUNED") else "clock"
    transition = moved(before, stage, number, f"{name}-1", slot=name, blueprint=blueprint, ticks=3, **clock)
    return [complete({**gate, **clock, "checks": [check]}), {**transition, "initiator": initiator}]


def ended(index, env):
    end = {"round": index, "env": env, "step": STEPS, "committed_accuracy_pp": 40.0, "growth_ratio": 1.6}
    rolled_back = index == 1 and env == 5
    record = outcome(index * ENVS + env, 0.3 * env - 0.2 + index, 12 + 2.5 * STEPS + 1.5 * env + 2 * index, **end)
    return [{**record, "fossilised": ["r0c0"], "rollback": rolled_back, "total_parameters": 250}]


def round_records(index):
    """Records of a whole round."""
    records = []
    for env in range(ENVS):
        records += episode(index, env)
        if index == 1 and env == 5:
            clock = {"round": 1, "episode": ENVS + 5, "env": 5, "step": STEPS}
            cause = {"reason": "validation_loss_diverges", "value": 9.4, "threshold": 6.9}
            records.append(complete({"kind": "rollback", **clock, **cause}))
        records += ended(index, env)
    update = {
        "kl": 0.012, "entropy": 2.1 - 0.1 * index, "clip_share": 0.2, "explained_variance": 0.1 * index,
        "grad_norm": 1.4, "optimizer_steps": 16, "policy_loss": -0.01, "value_loss": 0.3, "return_variance": 0.8,
        **{f"entropy_{head}": 0.05 if head == "style" else 0.4 + 0.02 * place for place, head in enumerate(HEADS)},
    }  # fmt: skip
    details = {"value_nrmse": 0.9, "value_return_correlation": 0.4, "ratio_max": 1.9, "clip_share_up": 0.11}
    details |= {"clip_share_down": 0.09, "advantage_std": 1.1, "learning_rate": 3e-4, "log_prob_min": -4.0}
    details |= {f"choice_share_{head}": 0.1 * (place + 1) for place, head in enumerate(HEADS)}
    details |= {f"grad_norm_{head}": 0.05 * (place + 1) for place, head in enumerate(HEADS)}
    summary = {
        "round": index,
        "episodes": ENVS,
        "env_steps": ENVS * STEPS * (index + 1),
        "return_mean": 0.2 + 0.3 * index,
    }
    summary |= {"return_std": 0.2, "val_accuracy_ratio": 0.45 + 0.03 * index, "committed_accuracy_ratio": 0.4}
    summary |= {
        "growth_ratio": 1.5,
        "fossilised_mean": 1.2,
        "rollbacks": int(index == 1),
        "op_wait": 70,
        "op_germinate": 18,
    }
    summary |= {"op_fossilize": 7, "op_prune": 1, "refused": 1}
    records.append(complete({"kind": "ppo_update", "round": index, **update, **details}))
    records.append(complete({"kind": "round", **summary, **update}))
    if index == 2:
        anomaly = {"type": "head_collapsed", "subject": "style", "open": True, "value": 0.0721, "threshold": 0.08}
        records.append(complete({"kind": "anomaly", "round": index, **anomaly}))
    return records


def host_record():
    shapes = [("stem", "Conv2d", [2, 8, 8], 20, "r0c0"), ("pool", "MaxPool2d", [2, 4, 4], 0, None)]
    shapes += [("body", "Conv2d", [4, 4, 4], 76, "r0c1"), ("late", "Conv2d", [8, 2, 2], 36, "r0c2")]
    shapes += [("head", "Linear", [10], 28, None)]
    names = ("name", "module", "shape", "parameters", "slot")
    return complete({"kind": "host", "parameters": 160, "layers": [dict(zip(names, s, strict=True)) for s in shapes]})


def recorded_run(folder, rounds=ROUNDS, name=NAME):
    """A run directory with ``rounds`` finished rounds."""
    folder.mkdir(exist_ok=True)
    run = RunDirectory.create(folder, config(), ["esper", "train"], name)
    curve = [8.0 + 1.5 * number for number in range(STEPS + 1)]
    control = {"kind": "control", "val_accuracy_pp": curve[-1], "curve_pp": curve, "step": STEPS, "seed": 100}
    run.log([complete({"kind": "run_started", "config_sha256": "c" * 64}), host_record(), complete(control)])
    for index in range(rounds):
        run.log(round_records(index))
        timing = f"{index},8.5,1.5,6.1,1.0\n"
        with (run.path / "timings.csv").open("a") as file:
            file.write(timing if index else "round,play_seconds,update_seconds,env_steps_per_second,ended\n" + timing)
    return run


def play(run, index=ROUNDS, steps=5):
    """Steps of the next round that are in play."""
    live = LiveSteps(run.path)
    live.start()
    for env in range(0, ENVS, 2):
        live.add([record for record in episode(index, env, steps) if record["kind"] == "env_epoch"])


def decide(run):
    """A sampled decision of environment 0."""
    decision = {
        "kind": "decision",
        "round": ROUNDS - 1,
        "episode": (ROUNDS - 1) * ENVS,
        "env": 0,
        "step": 2,
        "time": 1.0,
    }
    decision |= {
        "operation": "GERMINATE",
        "slot": "r0c0",
        "probability": 0.6,
        "argument_probability": 0.2,
        "value": 0.2,
    }
    decision |= {"operations": {"WAIT": 0.4, "GERMINATE": 0.6}, "values": {"WAIT": 0.1, "GERMINATE": 0.3}}
    run.samples.add([complete(decision)])


def beat(run, **changes):
    """Write the pulse."""
    (run.path / "pulse.json").write_text(json.dumps(PULSE | changes))


def set_times(run, status="running"):
    """Fixed times and status in the manifest."""
    manifest = run.read_manifest() | {"started": "2026-01-02T03:04:05+00:00", "updated": "2026-01-02T03:14:05+00:00"}
    machine = {"hardware": {"host": "box", "cpus": 2}, "versions": {"torch": "2.8.0"}, "git": {"commit": "c" * 40}}
    run.write_manifest(manifest | machine | {"status": status, "config_sha256": "c" * 64})


def watched(path, moments=(0.0,), prepare=None):
    """The view of a place after a look at each of ``moments``, in seconds of the viewer."""
    clock = [moments[0]]
    watch = watch_of(os.path.relpath(path), clock=lambda: clock[0])
    view = watch.first()
    for index, moment in enumerate(moments):
        clock[0] = moment
        if prepare is not None:
            prepare(index)
        view = watch.poll(runs=True)
    return view


class PlayedCommand:
    """A command whose end the test decides."""

    def __init__(self):
        self.present = CommandState(4711)

    def state(self):
        return self.present

    def stop(self):
        self.present = replace(self.present, stops=self.present.stops + 1)


def program(path, *, color=True, light=False, ascii_only=False, screen=1, command=None):
    """Sanctum over a place."""
    from esper_ray.karn.sanctum.app import Sanctum

    watch = watch_of(os.path.relpath(path), clock=lambda: 0.0)
    return Sanctum(watch, palette(color=color, light=light), ascii_only=ascii_only, screen=screen, command=command)
