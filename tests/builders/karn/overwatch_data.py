"""A run as the API of Overwatch describes it: made up, of any length, the same for the same seed."""

import math
import random
from dataclasses import dataclass, field

HEADS = ("op", "slot", "blueprint", "style", "tempo", "alpha_target", "alpha_speed", "alpha_curve")
CHOICES = {"op": 6, "slot": 3, "blueprint": 13, "style": 4, "tempo": 3, "alpha_target": 3, "alpha_speed": 4}
OPERATIONS = ("WAIT", "GERMINATE", "SET_ALPHA_TARGET", "PRUNE", "FOSSILIZE", "ADVANCE")
BLUEPRINTS = ("conv_light", "norm", "bottleneck", "depthwise", "attention")
SLOTS = ("r0c0", "r0c1", "r0c2")
LENGTH = 24
CONTROL_PP = 28.0
STAGES = ("GERMINATED", "TRAINING", "TRAINING", "TRAINING", "BLENDING", "BLENDING", "HOLDING", "FOSSILIZED")


@dataclass
class Site:
    """What the server knows. Tests change it while pages look at it."""

    version: int = 1
    sections: dict = field(default_factory=dict)
    answers: dict = field(default_factory=dict)
    """Answers of the API by path, such as ``runs/digits-s42/episodes``."""

    def change(self, **sections):
        """New sections of the run, which every stream sends."""
        self.sections = {**self.sections, **sections}
        self.version += 1
        self.changed = {**getattr(self, "changed", {}), **dict.fromkeys(sections, self.version)}


def slot_report(rng, age):
    """A seed of this age in a slot."""
    stage = STAGES[min(age, len(STAGES) - 1)]
    blended = stage in ("BLENDING", "HOLDING", "FOSSILIZED")
    value = round(rng.gauss(3.0, 3.0), 2) if blended else None
    return {
        "stage": stage,
        "blueprint": rng.choice(BLUEPRINTS),
        "alpha": {"BLENDING": 0.5, "HOLDING": 1.0, "FOSSILIZED": 1.0}.get(stage, 0.0),
        "contribution_pp": value,
        "contribution_error_pp": None if value is None else 0.8,
        "parameters": rng.randrange(200, 5000),
        "seed": "r0c0-1",
    }


def environment(env, rng, step=None):
    """The newest episode of an environment."""
    step = rng.randrange(1, LENGTH) if step is None else step
    accuracy = round(40 + 20 * step / LENGTH + rng.gauss(0, 4), 2)
    slots = {name: slot_report(rng, rng.randrange(0, 9)) for name in SLOTS if rng.random() < 0.7}
    return {
        "env": env,
        "episode": 56 + env,
        "round": 7,
        "step": step,
        "val_accuracy_pp": accuracy,
        "best_accuracy_pp": round(accuracy + rng.random() * 3, 2),
        "growth_ratio": round(1 + 0.4 * len(slots), 3),
        "episode_return": round(rng.gauss(0.4, 0.3), 3),
        "operation": rng.choice(OPERATIONS),
        "success": rng.random() > 0.2,
        "finished": False,
        "rollback": None,
        "quarantined": None,
        "live": True,
        "slots": slots,
    }


def columns(rounds, rng):
    """Columns of so many rounds."""
    rows = []
    for index in range(rounds):
        done = 1 - math.exp(-index / max(3, rounds / 3))
        accuracy = 0.28 + 0.22 * done + rng.gauss(0, 0.01)
        row = {
            "round": index,
            "val_accuracy_ratio": accuracy,
            "val_accuracy_min": accuracy - 0.06 - 0.03 * rng.random(),
            "val_accuracy_max": accuracy + 0.06 + 0.03 * rng.random(),
            "committed_accuracy_ratio": accuracy - 0.05 * rng.random(),
            "return_mean": -0.4 + 0.9 * done + rng.gauss(0, 0.05),
            "growth_ratio": 1.1 + 0.7 * done + rng.gauss(0, 0.04),
            "kl": 0.008 + 0.006 * rng.random(),
            "clip_share": 0.1 + 0.05 * rng.random(),
            "clip_share_up": 0.06 + 0.02 * rng.random(),
            "clip_share_down": 0.04 + 0.02 * rng.random(),
            "explained_variance": min(0.9, 0.7 * done + rng.gauss(0, 0.08)),
            "low_variance": 1.0 if index in (1, 2) else 0.0,
            "entropy": 4.2 - 1.6 * done,
            "refused": rng.randrange(0, 6),
            "rollbacks": int(index == 4),
        }
        row["return_min"], row["return_max"] = row["return_mean"] - 0.4, row["return_mean"] + 0.3
        row |= {f"op_{name.lower()}": rng.randrange(10, 60) for name in OPERATIONS}
        for head in HEADS:
            row[f"entropy_{head}"] = 0.9 * math.log(CHOICES.get(head, 2)) * (1 - 0.5 * done)
            row[f"head_entropy_{head}"] = 0.9 * (1 - 0.5 * done) if CHOICES.get(head, 1) > 1 else None
            row[f"choice_share_{head}"] = 0.3 + 0.6 * rng.random()
            row[f"grad_norm_{head}"] = 0.2 + 0.3 * rng.random()
        rows.append({name: round(value, 6) if isinstance(value, float) else value for name, value in row.items()})
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}


def answers():
    """The five answers, one at each level."""
    reasons = [
        "head collapsed (style): 0.04, threshold 0.08, since round 5",
        "critic useless: -0.2, threshold 0, since round 6",
    ]
    return {
        "alive": _answer("ok", "playing round 8/11"),
        "learning": _answer(
            "ok", "gain +21.1 pp [+18.9, +23.4]", because=["64 newest episodes against 8 without growth"]
        ),
        "growing": _answer("ok", "3 training, 2 blending, 1 holding, 9 fossilized; kept 31, pruned 7"),
        "explained": _answer("unknown", "not recorded by this version"),
        "safe": _answer("look", reasons[0], since=4, because=reasons),
    }


def _answer(level, text, since=None, because=()):
    return {"level": level, "text": text, "value": None, "threshold": None, "since": since, "because": [*because]}


def facts(name="digits-s42"):
    """Facts of the run."""
    return {
        "id": name,
        "name": name,
        "path": f"runs/{name}",
        "status": "training",
        "started": "2026-11-30T05:00:00+00:00",
        "version": "0.1.0",
        "preset": "digits",
        "task": "digits",
        "seed": 42,
        "host": "cnn",
        "machine": "box",
        "rounds": 11,
        "slots": [*SLOTS],
        "choices": CHOICES,
        "choice_names": {"op": [name.lower() for name in OPERATIONS], "slot": [*SLOTS]},
        "floors": dict.fromkeys(HEADS, 0.08),
        "differs": {"ppo.lr": ["0.001", "0.0003"], "system.envs": ["16", "8"]},
        "links": {"ray": "http://127.0.0.1:8265", "metrics": ""},
        "command_resume": f"esper train ppo --resume runs/{name}",
        "telemetry": "full",
    }


def whole():
    """Evidence without gaps."""
    return {"whole": True, "problems": [], "notes": [], "samples_lost": 0, "malformed": 0, "live_is_full": False}


def sections(rounds=7, environments=8, seed=0):
    """All sections of a run."""
    rng = random.Random(seed)
    base = "/runs/digits-s42"
    marks = [{"round": r, "kind": "fossilized", "text": "r0c0 fossilized"} for r in range(1, rounds)]
    marks += [{"round": 4, "kind": "rollback", "text": "loss"}, {"round": 5, "kind": "anomaly", "text": "collapsed"}]
    return {
        "facts": facts(),
        "answers": answers(),
        "age": {"beat_age_s": 0.4, "moved_age_s": 2.0, "phase": "playing", "steps_per_second": 6.1},
        "rounds": {
            "columns": columns(rounds, rng),
            "control": {"mean_pp": CONTROL_PP, "n": 8},
            "marks": [mark for mark in marks if mark["round"] < rounds],
        },
        "environments": {str(env): environment(env, rng) for env in range(environments)},
        "reward": {
            "by_source": {"accuracy": 41.0},
            "by_source_per_step": {"accuracy": 0.031, "rent": -0.012, "fossilization": 0.009, "shock": -0.001},
            "gaming": {"claims": 3},
        },
        "gates": {"passed": {"G1": 40, "G5": 9}, "failed": {"G2": 6}, "checks": {"G2": {"gradient health": 6}}},
        "blueprints": [
            {"name": "conv_light", "fossilized": 20, "pruned": 3, "contribution_pp": 4.2, "error": 0.7, "n": 20},
            {"name": "norm", "fossilized": 11, "pruned": 4, "contribution_pp": None, "error": None, "n": 0},
        ],
        "anomalies": [
            {
                "type": "head_collapsed",
                "subject": "style",
                "since_round": 4,
                "value": 0.04,
                "threshold": 0.08,
            }
        ],
        "faults": [{"kind": "retry", "who": "worker 2", "detail": "no answer for 30 s", "round": 3}],
        "notable": [
            {
                "round": 6,
                "episode": 51,
                "env": 3,
                "step": 22,
                "slot": "r0c1",
                "text": "r0c1 PRUNED conv_light by policy, worth -1.2 pp, lived 9 steps",
                "level": "lost",
                "url": f"{base}/episodes/51?step=22",
            },
            {"round": 4, "text": "began: head_collapsed style", "level": "look", "url": f"{base}/log"},
        ],
        "integrity": whole(),
    }


def gain(mean=21.1):
    """A gain over the control."""
    return {"mean_pp": mean, "low_pp": mean - 2.2, "high_pp": mean + 2.3, "episodes": 64, "controls": 8}


def places(count=6):
    """So many runs, and one of each other kind."""
    statuses = ("training", "finished", "finished", "interrupted", "failed")
    entries = [
        {
            "kind": "run",
            "id": "digits-s42" if index == 0 else f"digits-s{42 + index}",
            "name": "digits-s42" if index == 0 else f"digits-s{42 + index}",
            "folder": "runs",
            "status": statuses[index % 5],
            "started": f"2026-11-{30 - index % 29:02d}T05:00:00+00:00",
            "task": "digits",
            "preset": "digits",
            "seed": 42 + index,
            "group": "A" if index % 2 else "B",
            "round": 11 - index % 4,
            "rounds": 11,
            "gain": None if index % 5 == 4 else gain(21.1 - index % 7),
            "growth_ratio": 1.4 + 0.01 * index,
            "settings": {"ppo.lr": 0.001 if index % 2 else 0.0003, "seed": 42 + index},
            "url": f"/runs/digits-s{42 + index}",
        }
        for index in range(count)
    ]
    others = [("comparison", "shaped-vs-sparse"), ("sweep", "modes"), ("evaluation", "final")]
    entries += [
        {
            "kind": kind,
            "id": name,
            "name": name,
            "folder": "runs",
            "status": "finished",
            "started": "2026-11-20T05:00:00+00:00",
            "task": None,
            "preset": None,
            "seed": None,
            "group": None,
            "round": None,
            "rounds": None,
            "gain": None,
            "growth_ratio": None,
            "settings": {},
            "url": f"/{kind}s/{name}",
        }
        for kind, name in others
    ]
    return {"places": entries, "problems": []}
