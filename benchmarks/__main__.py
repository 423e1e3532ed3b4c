"""Run all benchmarks, or those that are named, and write ``benchmarks/results/<date>.md``."""

import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks import (
    coalitions,
    command_line,
    env_step,
    gpu,
    growth,
    host_epoch,
    karn,
    own_model,
    ppo_update,
    scale,
    scaling,
    slots,
    strategies,
    telemetry,
)
from benchmarks.report import Measurements

BENCHMARKS = {
    "command_line": command_line,
    "host_epoch": host_epoch,
    "env_step": env_step,
    "coalitions": coalitions,
    "slots": slots,
    "growth": growth,
    "own_model": own_model,
    "scaling": scaling,
    "strategies": strategies,
    "ppo_update": ppo_update,
    "telemetry": telemetry,
    "karn": karn,
    "scale": scale,
    "gpu": gpu,
}
RESULTS = Path(__file__).parent / "results"


def write(results: Sequence[Measurements]) -> Path:
    """One Markdown table per benchmark, in the file of today."""
    now = datetime.now(UTC)
    lines = [f"# Benchmarks, {now:%Y-%m-%d}", "", f"{platform.platform()}, torch {torch.__version__}", ""]
    for result in results:
        lines += [f"## {result.name}", "", "| figure | value | bar | |", "|---|---:|---:|---|"]
        for name, value in result.figures.items():
            bar = result.bars.get(name)
            verdict = "" if bar is None else "ok" if bar.holds(value) else "missed"
            lines.append(f"| {name} | {value:.3f} | {'' if bar is None else bar} | {verdict} |")
        lines += ["", f"`{result.line()}`", ""]
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{now:%Y-%m-%d}.md"
    path.write_text("\n".join(lines))
    return path


def main(names: Sequence[str]) -> int:
    """Exit code 0 if every bar holds. Only a complete run is written to a file."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"unknown benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    results = []
    for name in names or BENCHMARKS:
        results.append(BENCHMARKS[name].measure())
        results[-1].show()
    if not names:
        print(f"written to {write(results)}")
    return 0 if all(result.ok for result in results) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
