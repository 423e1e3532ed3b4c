"""Command lines: every option of every command with values that it cannot have."""

import os
from pathlib import Path

from cli_builders import SMALL, call

from corpus.cases import MOST_LINES, Case
from corpus.flag_values import (
    COUNTS,
    DEVICES,
    FILES,
    FLOATS,
    FORMATS,
    KEYS,
    NAMES,
    PATHS,
    POSITIVE,
    RUN_IDS,
    SLOTS,
    URIS,
    URLS,
)
from corpus.mutations import pick
from corpus.scenes import RUN

INPUTS = (RUN,)
TRAIN = ("train", "ppo", "--serial", *SMALL, "--rounds", "1", "--telemetry-dir", "new")
HEURISTIC = ("train", "heuristic", "--episode-length", "3", "--telemetry-dir", "new")
EVALUATE = ("evaluate", "static", "--serial", "--seeds", "2", "--episode-length", "2", "--out", "new")
SWEEP = ("sweep", "--serial", "--seeds", "1", "--rounds", "1", "--out", "new")
SHOW = ("config", "show")
PLACES = ("", "  ", "\t", "/", "file:///", "new", "./new/", "run/../new", "new/run/checkpoints", "s3:/a:b@c", "s3:/b/x")
"""Storages without a meaning, or in which the copy of a run would be the run itself."""
OPTIONS = {
    TRAIN: {
        **dict.fromkeys(("--rounds", "--envs", "--episode-length", "--ppo-epochs", "--memory-size"), POSITIVE),
        **dict.fromkeys(("--seed", "--max-seeds"), COUNTS),
        **dict.fromkeys(("--task", "--preset", "--reward-mode", "--telemetry", "--compile-mode"), NAMES),
        **dict.fromkeys(("--device", "--devices"), DEVICES),
        "--envs-per-actor": POSITIVE,
        "--gpus-per-actor": (*FLOATS, "99999"),
        "--slots": SLOTS,
        "--run-id": RUN_IDS,
        "--set": KEYS,
        "--config": FILES,
        "--resume": (
            "",
            "nowhere",
            "run/rounds.csv",
            "run/checkpoints",
            "ftp://x/y",
            "file://",
            "s4://a/b",
            "x" * 9000,
        ),
        "--checkpoint": ("", "round-00001", "../run", "round-9"),
        "--storage": ("ftp://x/y", "nope://", "/proc/x", "/dev/null/x", "run/manifest.json", "s3://", *PLACES),
        "--save": ("", "run", "/nowhere/deep/x", "run/manifest.json", "/", "/proc/x", "/sys/x", *URIS),
        "--metrics-port": ("", "x", "-1", "65536", "80.0", "0x50", "99999999999"),
        "--dual-ab": ("", "basic", "basic-vs-", "basic-vs-basik", "basic-vs-basic", "-vs-", "a-vs-b-vs-c", "vs"),
        "--ab-seeds": (*POSITIVE, "1", "10001"),
        "--telemetry-dir": PATHS,
        "--data-dir": ("nowhere", "run", "run/manifest.json", "/dev/zero", *URIS),
        "--num-workers": ("1", "-1", "x", ""),
    },
    HEURISTIC: {
        "--episodes": (*POSITIVE, "100001"),
        "--min-fossilize-improvement": (*FLOATS, "101", "-0.1"),
        "--device": DEVICES,
        "--slots": SLOTS,
        "--set": KEYS,
        "--preset": NAMES,
        "--telemetry-dir": PATHS,
        "--episode-length": POSITIVE,
    },
    EVALUATE: {
        "--seeds": (
            "",
            "1",
            "0",
            "x",
            "5-5",
            "9-3",
            "-3",
            "1-",
            "1e3",
            "0-" + "9" * 400,
            "99999999999",
            "0-4294967296",
        ),
        "--control": ("", "oracl", "static2", "ä" * 999),
        "--workers": (*POSITIVE, "10001"),
        "--devices": DEVICES,
        "--set": KEYS,
        "--out": PATHS,
        "--task": NAMES,
    },
    SWEEP: {
        "--seeds": ("", "0", "x", "5-3", "1;2", "1,,2", "-1", "1-99999999", "\u0663", "1,1", "9" * 400, "1e3"),
        "--grid": (
            "",
            "=",
            "ppo.lr",
            "ppo.lr=",
            "ppo.lr=,",
            "ppo.lrr=1",
            "seed=1",
            "name=a",
            "ppo.lr=[",
            "ppo.lr=x",
            "ppo.lr=1,1",
            "ppo.rounds=0",
            "reward.mode=basic",
            "ppo.lr=" + "1," * 50_000,
            "ppo.lr={a: 1, a: 2}",
        ),
        "--scheduler": NAMES,
        "--reward-modes": NAMES,
        "--window": POSITIVE,
        "--concurrent": COUNTS,
        "--retries": (*COUNTS, "1001"),
        "--sweep": ("", "reward_mode", "nowhere.yaml", "run", "/dev/zero", "run/config.yaml", "ä" * 400),
        "--resume": ("", "nowhere", "run", "run/manifest.json"),
        "--out": ("run", "run/manifest.json", "/proc/x", "/dev/null/x", *URIS),
    },
    ("events", RUN): {
        **dict.fromkeys(("--env", "--episode", "--round"), (*(value for value in COUNTS if value != "--"), "-5")),
        "--limit": (*(value for value in COUNTS if value != "--"), "1000000001"),
        "--format": FORMATS,
        "--kind": ("", "outcom", "OUTCOME", "*", "x" * 5000, "out\ncome"),
    },
    ("explain", RUN): {
        "--episode": (*(value for value in COUNTS if value != "--"), "999999", str(10**25)),
        "--env": (*(value for value in COUNTS if value != "--"), "999999", str(10**25)),
    },
    ("explain", RUN, "--episode", "0"): {
        "--step": (*POSITIVE, "999999"),
        "--slot": ("", "r9c9", "x", "r0c0;", "ä" * 5000),
        "--env": ("0", "1"),
    },
    ("replay", RUN, "--episode", "0"): {"--device": DEVICES, "--data-dir": ("nowhere", "run", "/dev/zero")},
    ("replay", RUN): {"--episode": (*COUNTS, "999999", str(10**25))},
    ("export-policy", RUN, "new.esper"): {"--round": (*COUNTS, "999999", str(10**25))},
    ("dashboards", "push", "--token-env", "PATH"): {"--url": URLS, "--run": ("nowhere", "run/manifest.json", "")},
    ("dashboards", "picture", "."): {"--prometheus": URLS, "--minutes": (*FLOATS, "0", "1e300"), "--run": ("x", "")},
    ("dashboards", "render"): {"--out": PATHS},
    ("monitor",): {"--port": (*COUNTS, "65536"), "--prometheus": ("", "nowhere", "/etc/passwd", "run")},
    ("submit", "--stop", "x"): {"--address": URLS},
    ("report", RUN): {"--output": (*PATHS, "run", "."), "-o": URIS},
    ("flight", RUN): {"--seconds": (*FLOATS, "86401")},
    ("overwatch", RUN): {
        "--port": (*COUNTS, "65536"),
        "--token-file": ("nowhere", "run", "/dev/zero", "run/manifest.json", *URIS),
        "--host": ("", "no host", "999.1.1.1", "http://a"),
    },
    SHOW: {"--set": tuple(key for key in KEYS if "blueprints" not in key), "--preset": NAMES, "--config": FILES},
}
LINES = (
    ("nonsense",), ("submit",), ("dashboards", "nope"), ("dashboards", "picture", "nowhere"),
    ("train", "ppoo"), ("train", "ppo", "surplus"), ("--unknown",), ("config", "shwo"),
    ("train", "ppo", "--rounds", "1", "--set", "ppo.rounds=2"), ("train", "ppo", "--resume", RUN, "--run-id", "x"),
    ("train", "ppo", "--lr", "1e-3"), ("train", "ppo", "--checkpoint", "round-00001"),
    ("train", "ppo", "--roundz", "1"), ("train", "ppo", "--dual-ab", "basic-vs-sparse", "--reward-mode", "basic"),
    ("train", "ppo", "--ab-seeds", "5"),
    ("evaluate",), ("evaluate", "nowhere"), ("train", "ppo", "--dual-ab", "basic-vs-sparse", "--metrics-port", "0"),
    ("evaluate", RUN, "static2"), ("evaluate", ""), ("evaluate", "schedule:nowhere"), ("evaluate", "schedule:"),
    ("evaluate", "static=static2"), ("train", "ppo", "--telemetry", "off", "--metrics-port", "0"),
    ("export-policy", RUN), ("events",), ("sql",), ("export-policy", RUN, "new.bin"),
    ("export-policy", RUN, "nowhere/new.esper"), ("export-policy", "nowhere", "n.esper"), ("export-policy", RUN, RUN),
    ("events", "nowhere"), ("events", "run/manifest.json"), ("replay", RUN), ("events", ""), ("explain", RUN),
    ("explain", "nowhere", "--env", "0"), ("replay", "nowhere", "--episode", "0"), ("events", RUN, RUN),
    ("sweep", "--resume", RUN, "--out", "new"), ("sweep", "--grid", "ppo.lr=1", "--set", "ppo.lr=2"),
    ("sql", "nowhere"), ("sweep", "--reward-modes", "basic", "--set", "reward.mode=sparse"),
    ("train", "ppo", "--slots", "--seed", "1"), ("sweep", "--scheduler", "pbt"),
    ("sweep", "--scheduler", "pb2", "--grid", "ppo.lr=1e-3"), ("config", "show", "x"),
    ("sweep", "--scheduler", "asha", "--grid", "ppo.rounds=1,2"), ("train", "heuristic", "--rounds", "2"),
    ("flight", "nowhere"), ("flight", RUN, "0"), ("flight", RUN, "99"), ("flight", RUN, "x"), ("report", "nowhere"),
    ("report", "run/manifest.json"), ("overwatch", "nowhere"), ("overwatch", "run/manifest.json"), ("tasks", "x"),
    *((command, uri) for command in ("events", "report", "flight", "overwatch", "sql") for uri in URIS),
    ("train", "heuristic", "--lr", "1"), ("train", "ppo", "--preset", "digits", "--preset"), ("config", "schema", "x"),
)  # fmt: skip


def answered(folder: Path, words):
    """The answer of a command in ``folder``."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        return call(*words)
    finally:
        os.chdir(before)


def cases(rng, scenes):
    def case(name, words):
        return Case(
            f"{name:.150}",
            lambda folder: answered(folder, words),
            must_refuse=True,
            lines=MOST_LINES,
            usage=True,
        )

    while True:
        if rng.random() < 0.15:
            words = pick(rng, LINES)
            yield case(" ".join(words), words)
            continue
        base = pick(rng, [TRAIN, TRAIN, TRAIN, *OPTIONS])
        option = pick(rng, OPTIONS[base])
        value = pick(rng, OPTIONS[base][option])
        yield case(f"{' '.join(base[:2])} {option} {value!r}", (*without_option(base, option), option, value))


def without_option(words, option):
    """``words`` without an option and its value."""
    if option not in words:
        return words
    place = words.index(option)
    return (*words[:place], *words[place + 2 :])
