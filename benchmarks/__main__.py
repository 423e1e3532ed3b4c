"""Run all benchmarks, or those that are named.

All of them are written to ``benchmarks/results/<date>.md``, each when it ends; named ones with ``--write``.
"""

import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks.karn import viewers
from benchmarks.networks import (
    coalitions,
    gpu,
    growth,
    host_epoch,
    newborns,
    own_model,
    place_scores,
    slots,
    widening_cost,
    width,
)
from benchmarks.report import RESULTS, Measurements
from benchmarks.runs import command_line, critic_features, env_step, ppo_update, scale, scaling, strategies, telemetry

BENCHMARKS = {
    "command_line": command_line,
    "host_epoch": host_epoch,
    "env_step": env_step,
    "coalitions": coalitions,
    "slots": slots,
    "growth": growth,
    "own_model": own_model,
    "width": width,
    "widening_cost": widening_cost,
    "newborns": newborns,
    "place_scores": place_scores,
    "scaling": scaling,
    "strategies": strategies,
    "critic_features": critic_features,
    "ppo_update": ppo_update,
    "telemetry": telemetry,
    "karn": viewers,
    "scale": scale,
    "gpu": gpu,
}


def section(result: Measurements) -> str:
    """A Markdown table of ``result``, below a heading with its name."""
    lines = [f"## {result.name}", "", "| figure | value | bar | |", "|---|---:|---:|---|"]
    for name, value in result.figures.items():
        bar = result.bars.get(name)
        verdict = "" if bar is None else "ok" if bar.holds(value) else "missed"
        lines.append(f"| {name} | {value:.3f} | {'' if bar is None else bar} | {verdict} |")
    return "\n".join([*lines, "", f"`{result.line()}`", ""])


def write(result: Measurements, folder: Path = RESULTS) -> Path:
    """File of today, with the section of ``result`` in place of an earlier one."""
    now = datetime.now(UTC)
    path = folder / f"{now:%Y-%m-%d}.md"
    sections: dict[str, str] = {}
    if path.exists():
        for text in path.read_text(encoding="utf-8").split("\n## ")[1:]:
            sections[text.split("\n", 1)[0]] = f"## {text.rstrip()}\n"
    sections[result.name] = section(result)
    head = f"# Benchmarks, {now:%Y-%m-%d}\n\n{platform.platform()}, torch {torch.__version__}\n"
    ordered = [sections[name] for name in [*BENCHMARKS, *(sections.keys() - BENCHMARKS.keys())] if name in sections]
    folder.mkdir(exist_ok=True)
    path.write_text("\n".join([head, *ordered]), encoding="utf-8")
    return path


def main(arguments: Sequence[str]) -> int:
    """Exit code 0 if every bar holds. All benchmarks are written to the file of today; named ones with ``--write``."""
    names = [argument for argument in arguments if argument != "--write"]
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"unknown benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    ok = True
    for name in names or BENCHMARKS:
        result = BENCHMARKS[name].measure()
        result.show()
        ok &= result.ok
        if not names or "--write" in arguments:
            print(f"written to {write(result)}")
    return 0 if ok else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
