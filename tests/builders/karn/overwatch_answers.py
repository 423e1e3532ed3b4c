"""Answers of the API of Overwatch besides the state of the run: episodes, seeds, log, SQL."""

import random

from overwatch_comparisons import comparison, evaluation, sweep
from overwatch_data import BLUEPRINTS, CHOICES, CONTROL_PP, HEADS, LENGTH, OPERATIONS, SLOTS, columns, places

RUN = "runs/digits-s42"
LOG_ROWS = 40
LIVES = {"r0c0": (2, "conv_light", None), "r0c1": (6, "norm", 15), "r0c2": (9, "bottleneck", None)}
"""First step, blueprint and step of pruning of the seed in each slot."""
PATH = ("GERMINATED", *["TRAINING"] * 4, *["BLENDING"] * 3, *["HOLDING"] * 3)


def stage_at(slot, step):
    """Stage of the slot after a step; ``None`` if it is empty."""
    first, _, pruned = LIVES[slot]
    if step < first:
        return None
    if pruned is not None and step >= pruned:
        cooldown = ("PRUNED", "EMBARGOED", "EMBARGOED", "RESETTING")
        return cooldown[step - pruned] if step - pruned < len(cooldown) else None
    return PATH[step - first] if step - first < len(PATH) else "FOSSILIZED"


def slots_at(step, rng):
    """Reports of the occupied slots."""
    reports = {}
    for slot in SLOTS:
        stage = stage_at(slot, step)
        if stage is None:
            continue
        amplitude = {"BLENDING": 0.5, "HOLDING": 1.0, "FOSSILIZED": 1.0}.get(stage, 0.0)
        worth = round(rng.gauss(4.0 if slot != "r0c1" else -1.5, 0.5), 2) if amplitude else None
        reports[slot] = {
            "seed": f"{slot}-1",
            "stage": stage,
            "blueprint": LIVES[slot][1],
            "alpha": amplitude,
            "contribution_pp": worth,
            "contribution_error_pp": None if worth is None else 0.7,
            "parameters": 1200,
        }
    return reports


def entries_at(step, rng):
    """Entries of the reward of a step."""
    entries = [
        {
            "source": "accuracy",
            "slot": None,
            "amount": round(rng.gauss(0.03, 0.02), 4),
            "cause": step,
            "reason": "+0.9",
        },
        {"source": "rent", "slot": None, "amount": -0.012, "cause": step, "reason": "2,400 parameters of 5,000"},
    ]
    if step == 20:
        late = {"source": "fossilization", "slot": "r0c0", "amount": 0.21, "cause": 13, "reason": "worth +4.1 pp"}
        entries.append(late)
    return entries


def step_record(step, rng):
    """One step as the API gives it."""
    operation, slot, success = "WAIT", None, True
    for name, (first, _, pruned) in LIVES.items():
        if step == first:
            operation, slot = "GERMINATE", name
        elif step == first + 11 and pruned is None:
            operation, slot = "FOSSILIZE", name
        elif step == pruned:
            operation, slot = "PRUNE", name
    if step == 5:
        operation, slot, success = "ADVANCE", "r0c0", False
    entries = entries_at(step, rng)
    return {
        "step": step,
        "operation": operation,
        "slot": slot,
        "success": success,
        "reward": round(sum(entry["amount"] for entry in entries), 4),
        "entries": entries,
        "val_accuracy_pp": round(24 + 1.1 * step + rng.gauss(0, 1), 2),
        "committed_accuracy_pp": round(23 + 0.9 * step, 2),
        "growth_ratio": round(1 + 0.03 * step, 3),
        "total_parameters": 5000 + 150 * step,
        "value": round(rng.gauss(0.5, 0.1), 3),
        "log_prob": -1.2,
        "why": "",
        "slots": slots_at(step, rng),
        "clock": None,
    }


def decision(step, operation, rng, episode=51):
    """A sampled decision."""
    return {
        "seq": 9000 + step,
        "kind": "decision",
        "round": 6,
        "env": 3,
        "episode": episode,
        "step": step,
        "operation": operation,
        "slot": "r0c0" if operation != "WAIT" else None,
        "probability": 0.41,
        "argument_probability": 0.08,
        "operations": {name: round(rng.random() / 3, 3) for name in OPERATIONS},
        "values": {name: round(rng.gauss(0.4, 0.2), 3) for name in OPERATIONS},
        "value": 0.51,
        "heads": {
            "op": {"choice": OPERATIONS.index(operation), "probability": 0.41, "entropy": 1.2, "legal": 4},
            "slot": {"choice": 0, "probability": 0.7, "entropy": 0.6, "legal": 3},
        },
    }


def gates():
    """Evaluated gates of the episode."""

    def check(name, value, threshold):
        margin = round(value - threshold, 3)
        return {"name": name, "value": value, "threshold": threshold, "margin": margin, "passed": margin >= 0}

    return [
        {"step": 3, "slot": "r0c0", "seed": "r0c0-1", "gate": "G1", "passed": True, "checks": [check("age", 1.0, 1.0)]},
        {
            "step": 5,
            "slot": "r0c0",
            "seed": "r0c0-1",
            "gate": "G2",
            "passed": False,
            "checks": [check("gradient_health", 0.31, 0.5), check("improvement", 0.9, 0.5)],
        },
        {
            "step": 13,
            "slot": "r0c0",
            "seed": "r0c0-1",
            "gate": "G5",
            "passed": True,
            "checks": [check("contribution", 4.1, 0.0)],
        },
    ]


def transitions():
    """Stages that the seeds enter."""
    found = []
    for slot, (first, blueprint, _) in LIVES.items():
        before = "DORMANT"
        for step in range(first, LENGTH + 1):
            stage = stage_at(slot, step)
            if stage is None or stage == before:
                continue
            policy = stage in ("GERMINATED", "FOSSILIZED", "PRUNED")
            found.append(
                {
                    "step": step,
                    "slot": slot,
                    "seed": f"{slot}-1",
                    "from": before,
                    "to": stage,
                    "ticks": 4,
                    "reason": "",
                    "initiator": "policy" if policy else "clock",
                    "blueprint": blueprint,
                }
            )
            before = stage
    return found


def episode(number=51, *, live=False, steps=LENGTH):
    """One episode."""
    rng = random.Random(number)
    records = [step_record(step, rng) for step in range(1, steps + 1)]
    return {
        "episode": number,
        "env": 3,
        "round": 6,
        "seed": 1234,
        "control_accuracy_pp": CONTROL_PP,
        "control_curve_pp": [round(22 + 0.3 * step, 2) for step in range(LENGTH + 1)],
        "control_is_own": False,
        "slots": [*SLOTS],
        "steps": records,
        "transitions": [] if live else transitions(),
        "gates": [] if live else gates(),
        "vetoes": [] if live else [{"step": 8, "slot": "r0c2", "reason": "parameters", "value": 9000, "limit": 8000}],
        "rollback": None,
        "attribution": None
        if live
        else {
            "method": "exact",
            "orders": 0,
            "slots": [
                {"slot": "r0c0", "shapley_pp": 4.4, "shapley_error_pp": 0.5, "leave_one_out_pp": 3.9},
                {"slot": "r0c2", "shapley_pp": None, "shapley_error_pp": None, "leave_one_out_pp": None},
            ],
            "pairs": [{"first": "r0c0", "second": "r0c2", "interaction_pp": -0.8}],
        },
        "outcome": None
        if live
        else {"val_accuracy_pp": records[-1]["val_accuracy_pp"], "growth_ratio": 1.72, "total_reward": 0.61},
        "decisions": [
            decision(step["step"], step["operation"], rng, number) for step in records if step["operation"] != "WAIT"
        ],
        "live": live,
    }


def episodes(query):
    """A page of a table of finished episodes."""
    rng = random.Random(1)
    rows = [
        {
            "episode": number,
            "env": number % 8,
            "round": number // 8,
            "steps": LENGTH,
            "return": round(rng.gauss(0.4, 0.3), 3),
            "val_accuracy_pp": round(rng.gauss(45, 5), 2),
            "gain_pp": None if number % 9 == 0 else round(rng.gauss(17, 5), 2),
            "growth_ratio": 1.5,
            "fossilized": rng.randrange(0, 4),
            "pruned": rng.randrange(0, 3),
            "rollback": number == 40,
        }
        for number in range(230)
    ]
    first = {name: values[0] for name, values in query.items()}
    key, down = first.get("sort") or "episode", first.get("descending") == "1"
    text = first.get("filter", "")
    if text.startswith("round="):
        rows = [row for row in rows if row["round"] == int(text[6:]) - 1]
    rows.sort(key=lambda row: (row[key] is not None, row[key] or 0), reverse=down)
    offset, limit = int(first.get("offset") or 0), int(first.get("limit") or 100)
    return {"total": len(rows), "rows": rows[offset : offset + limit]}


def story():
    """The story of a seed."""
    rng = random.Random(5)
    contribution = [
        {"step": step, "pp": round(rng.gauss(4, 0.6), 2), "error_pp": 0.7, "alpha": min(1.0, (step - 6) / 4)}
        for step in range(7, LENGTH + 1)
    ]
    rewards = [{"step": step, "source": "rent", "amount": -0.012, "reason": "1,200 parameters"} for step in range(3, 9)]
    rewards.append({"step": 20, "source": "fossilization", "amount": 0.21, "reason": "worth +4.1 pp"})
    return {
        "sentence": "conv_light germinated in r0c0 at step 2 by the policy; fossilized at step 13, worth +4.1 pp.",
        "slot": "r0c0",
        "blueprint": "conv_light",
        "transitions": [record for record in transitions() if record["slot"] == "r0c0"],
        "gates": gates(),
        "contribution": contribution,
        "decisions": [decision(2, "GERMINATE", rng), decision(13, "FOSSILIZE", rng)],
        "rewards": rewards,
    }


def policy(rounds=7):
    """The policy by round."""
    rng = random.Random(2)
    table = columns(rounds, random.Random(0))
    heads = {
        head: {
            "choices": CHOICES.get(head, 1),
            "floor": 0.08,
            "entropy": table.get(f"entropy_{head}", []),
            "choice_share": table.get(f"choice_share_{head}", []),
            "grad_norm": table.get(f"grad_norm_{head}", []),
        }
        for head in HEADS
    }
    decisions = [decision(step, rng.choice(OPERATIONS), rng) for step in range(20, 0, -1)] if rounds else []
    return {"rounds": table.get("round", []), "heads": heads, "operations": {}, "refused": [], "decisions": decisions}


def network(recorded=True):
    """The host."""
    layers = [
        ("stem.conv", "Conv2d", [16, 8, 8], 160, None),
        ("stem.norm", "BatchNorm2d", [16, 8, 8], 32, None),
        ("stem.act", "ReLU", [16, 8, 8], 0, "r0c0"),
        ("block1.conv", "Conv2d", [32, 4, 4], 4640, "r0c1"),
        ("block2.conv", "Conv2d", [32, 4, 4], 9248, "r0c2"),
        ("head", "Linear", [10], 330, None),
    ]
    names = ("name", "module", "shape", "parameters", "slot")
    return {
        "layers": [dict(zip(names, layer, strict=True)) for layer in layers] if recorded else [],
        "recorded": recorded,
        "parameters": 14410,
        "seeds": {},
        "steps": LENGTH,
    }


def log(query):
    """A page of the event log."""
    kind, text = (query.get(name, [""])[0] for name in ("kind", "text"))
    before = int(query.get("before", ["500"])[0])
    records = [
        {
            "seq": seq,
            "kind": ("gate", "seed_transition", "outcome")[seq % 3],
            "round": 6,
            "env": seq % 8,
            "episode": 48 + seq % 8,
            "step": seq % LENGTH,
            "slot": "r0c1",
            "blueprint": BLUEPRINTS[seq % 5],
        }
        for seq in range(before - 1, max(0, before - LOG_ROWS), -1)
    ]
    records = [r for r in records if (not kind or r["kind"] == kind) and (not text or text in str(r))]
    return {"records": records, "kinds": ["gate", "outcome", "seed_transition"], "before": before - LOG_ROWS}


def sql(question):
    """An answer to a query."""
    if "DROP" in question["query"]:
        return {"error": "only one SELECT is allowed, not DROP: 1 statement"}
    rows = [[index + question["offset"], 16, 0.1 * index, "text", None] for index in range(50)]
    names = ["round", "episodes", "return_mean", "note", "nothing"]
    return {"columns": names, "rows": rows, "more": question["offset"] == 0, "seconds": 0.02}


def sql_tables():
    """Tables of the log."""
    column = {"name": "total_reward", "type": "DOUBLE", "about": "its return, undiscounted"}
    tables = [{"name": "outcome", "about": "An episode ends.", "columns": [column]}]
    return {"enabled": True, "reason": None, "tables": tables, "examples": [{"title": "returns", "query": "SELECT 1"}]}


def flight():
    """Recordings."""
    entry = {"number": 1, "name": "1-anomaly.jsonl", "what": "anomaly", "time": 1796000000, "items": 3, "bytes": 2048}
    return {"recordings": [entry], "command": "esper flight runs/digits-s42 1"}


def recording():
    """One recording."""
    lines = [
        {"time": 10.0, "kind": "env_epoch", "text": "step 3 of environment 1: WAIT", "record": {"step": 3}},
        {"time": 11.5, "kind": "log", "text": "worker 2 does not answer", "record": None},
        {"time": 12.25, "kind": "anomaly", "text": "began: head_collapsed style", "record": {"type": "head_collapsed"}},
    ]
    return {"number": 1, "name": "1-anomaly.jsonl", "what": "anomaly", "time": 1796000000, "lines": lines}


def filled(site):
    """The site with an answer for every page."""
    site.answers |= {
        "places": places(),
        f"{RUN}/episodes": episodes,
        f"{RUN}/episodes/51": episode(),
        f"{RUN}/episodes/56": episode(56, live=True, steps=14),
        f"{RUN}/episodes/51/seeds/r0c0-1": story(),
        f"{RUN}/policy": policy(),
        f"{RUN}/network": network(),
        f"{RUN}/log": log,
        f"{RUN}/sql": sql,
        f"{RUN}/sql/tables": sql_tables(),
        f"{RUN}/flight": flight(),
        f"{RUN}/flight/1": recording(),
        "compare": comparison(),
        "comparisons/shaped-vs-sparse": comparison(),
        "sweeps/modes": sweep(),
        "evaluations/final": evaluation(),
    }
    return site
