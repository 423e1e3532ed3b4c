"""Returns of simple strategies in each reward mode, on ``patterns`` and ``digits``: table and heat map.

Every strategy plays whole episodes in the real environment. Rewards do not change a network, so each episode is played
once and its rewards are computed in all eight modes; a check compares them with an environment of each mode. Returns
are discounted, with every amount at the step that caused it, as for PPO.

    python -m benchmarks.runs.strategies [--seeds N]
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.report import RESULTS, Bar, Measurements
from benchmarks.runs.scripted import STRATEGIES, decision
from esper_ray.environment import MorphogenesisEnv, make_environment
from esper_ray.leyline.config.reward import REWARD_MODES
from esper_ray.leyline.config.run import RunConfig
from esper_ray.simic.ledger import Ledger
from esper_ray.simic.live.engine import RewardEngine
from esper_ray.simic.live.transition import Transition
from esper_ray.simic.normalisation import discounted_returns

TASKS = ("patterns", "digits")
SEEDS = 16
FIRST_SEED = 1000
"""Strategies were written with others in view."""
HONEST = "do-right"
RESAMPLES, LEVEL = 10_000, 95
Returns = Mapping[str, NDArray[np.float64]]
"""(seeds,) by strategy."""


@dataclass(frozen=True)
class Cell:
    """Mean return of a strategy in a mode, with a bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        digits = 0 if abs(self.mean) >= 100 else 2
        return f"{self.mean:.{digits}f} ± {(self.high - self.low) / 2:.{digits}f}"


def episode_return(ledger: Ledger, steps: int, gamma: float) -> float:
    """Discounted return from the beginning of an episode, every amount at its cause."""
    return float(discounted_returns(ledger.by_cause(steps), gamma)[0])


def play(env: MorphogenesisEnv, strategy: str, seed: int) -> list[Transition]:
    """Transitions of one episode."""
    env.reset(seed=seed)
    transitions: list[Transition] = []
    settle = env.progress.rewards.settle

    def settle_and_record(transition: Transition) -> tuple[object, ...]:
        transitions.append(transition)
        return settle(transition)

    env.progress.rewards.settle = settle_and_record  # type: ignore[method-assign, assignment]
    done = False
    while not done:
        action = decision(STRATEGIES[strategy], env.view, env.limits)
        _, _, terminated, truncated, _ = env.step(action.to_indices())
        done = terminated or truncated
    return transitions


def ledger_in_mode(config: RunConfig, mode: str, env: MorphogenesisEnv, transitions: Sequence[Transition]) -> Ledger:
    """Ledger of the same episode in another mode."""
    reward = config.reward.model_copy(update={"mode": mode})
    engine = RewardEngine(
        reward,
        config.gamma,
        config.governor.penalty,
        env.runtime.health.first_accuracy_pp,
        env.progress.rewards.control_pp,
    )
    for transition in transitions:
        engine.settle(transition)
    return engine.ledger


def returns_by_mode(episode: tuple[str, str, int]) -> dict[str, float]:
    """Return in every mode of one episode of (task, strategy, seed)."""
    task, strategy, seed = episode
    torch.set_num_threads(1)
    env = make_environment(task, {"reward.mode": "settlement"})
    transitions = play(env, strategy, seed)
    gamma = env.config.gamma
    return {
        mode: episode_return(ledger_in_mode(env.config, mode, env, transitions), len(transitions), gamma)
        for mode in REWARD_MODES
    }


def check_recomputed_returns(task: str, seed: int) -> None:
    """Check that an episode played in a mode has the return computed for that mode.

    Raises:
        RuntimeError: if the returns differ.
    """
    recomputed = returns_by_mode((task, HONEST, seed))
    for mode in REWARD_MODES:
        env = make_environment(task, {"reward.mode": mode})
        transitions = play(env, HONEST, seed)
        earned = episode_return(env.ledger, len(transitions), env.config.gamma)
        if earned != recomputed[mode]:
            raise RuntimeError(f"{task}, mode {mode}: played {earned}, recomputed {recomputed[mode]}")


def interval(values: NDArray[np.float64]) -> Cell:
    """Mean with a bootstrap percentile interval."""
    draws = np.random.default_rng(0).choice(values, (RESAMPLES, len(values))).mean(axis=1)
    tail = (100 - LEVEL) / 2
    return Cell(float(values.mean()), *(float(q) for q in np.percentile(draws, [tail, 100 - tail])))


def margin(returns: Returns) -> tuple[str, Cell]:
    """The best strategy besides :data:`HONEST`, and its deficit, paired by episode."""
    rival = max((name for name in returns if name != HONEST), key=lambda name: returns[name].mean())
    return rival, interval(returns[HONEST] - returns[rival])


def measured_returns(seeds: int) -> dict[str, dict[str, Returns]]:
    """Returns by task and mode."""
    episodes = [(task, strategy, seed) for task in TASKS for strategy in STRATEGIES for seed in _episode_seeds(seeds)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        rows = dict(zip(episodes, pool.map(returns_by_mode, episodes), strict=True))
        list(pool.map(check_recomputed_returns, TASKS, [FIRST_SEED] * len(TASKS)))
    return {
        task: {
            mode: {
                strategy: np.array([rows[task, strategy, seed][mode] for seed in _episode_seeds(seeds)])
                for strategy in STRATEGIES
            }
            for mode in REWARD_MODES
        }
        for task in TASKS
    }


def _episode_seeds(count: int) -> range:
    return range(FIRST_SEED, FIRST_SEED + count)


def winner(returns: Returns) -> str:
    """The strategy with the highest return."""
    return max(returns, key=lambda name: returns[name].mean())


def tables(results: Mapping[str, Mapping[str, Returns]]) -> list[Table]:
    """One table per task for the terminal; the highest return is bold."""
    rendered = []
    for task, by_mode in results.items():
        table = Table(title=f"{task}: mean return ± half of its {LEVEL} % interval", title_justify="left")
        table.add_column("strategy")
        for mode in by_mode:
            table.add_column(mode, justify="right")
        for name in STRATEGIES:
            cells = {mode: str(interval(returns[name])) for mode, returns in by_mode.items()}
            table.add_row(name, *(f"[b]{c}[/b]" if winner(by_mode[m]) == name else c for m, c in cells.items()))
        rendered.append(table)
    return rendered


def markdown(results: Mapping[str, Mapping[str, Returns]], seeds: int) -> str:
    """The tables as Markdown."""
    lines = [
        "# What each reward mode pays for",
        "",
        f"Mean return of {seeds} episodes, plus or minus half of its {LEVEL} % bootstrap interval; what is paid "
        "most in a mode is bold.",
        "",
    ]
    for task, by_mode in results.items():
        lines += [f"## {task}", "", f"| strategy | {' | '.join(by_mode)} |", f"|---|{'---:|' * len(by_mode)}"]
        for name in STRATEGIES:
            cells = [(str(interval(returns[name])), winner(returns) == name) for returns in by_mode.values()]
            lines.append(f"| {name} | {' | '.join(f'**{cell}**' if best else cell for cell, best in cells)} |")
        rival, ahead = margin(by_mode["settlement"])
        between = f"[{ahead.low:.2f}, {ahead.high:.2f}]"
        lines += ["", f"`settlement`: {HONEST} is ahead of {rival} by {ahead.mean:.2f} {between}, paired by seed.", ""]
    return "\n".join(lines)


def draw(results: Mapping[str, Mapping[str, Returns]], path: Path) -> None:
    """Draw the heat map, scaled from the lowest to the highest return of each mode."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(results), 1, figsize=(10, 8.4), layout="constrained")
    for axis, (task, by_mode) in zip(np.atleast_1d(axes), results.items(), strict=True):
        means = np.array([[returns[name].mean() for returns in by_mode.values()] for name in STRATEGIES])
        spread = np.ptp(means, axis=0)
        shades = (means - means.min(axis=0)) / np.where(spread > 0, spread, 1.0)
        axis.imshow(shades, cmap="YlGn", vmin=0, vmax=1.25, aspect="auto")
        axis.set_xticks(range(len(by_mode)), list(by_mode))
        axis.set_yticks(range(len(STRATEGIES)), list(STRATEGIES))
        axis.tick_params(length=0)
        axis.set_title(f"{task}: mean return, best of each mode framed", loc="left")
        for (row, column), value in np.ndenumerate(means):
            best = row == means[:, column].argmax()
            text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}"
            axis.text(column, row, text, ha="center", va="center", fontsize=9, weight="bold" if best else "normal")
            if best:
                frame = plt.Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=1.5)
                axis.add_patch(frame)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def measure(seeds: int = SEEDS) -> Measurements:
    """Run the benchmark, print and write the tables and the heat map."""
    results = measured_returns(seeds)
    for table in tables(results):
        Console(width=max(200, Console().width)).print(table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "strategies.md").write_text(markdown(results, seeds))
    draw(results, RESULTS / "strategies.png")
    figures, bars = {}, {}
    for task, by_mode in results.items():
        for mode, returns in by_mode.items():
            _, ahead = margin(returns)
            figures[f"{task}_{mode}_{HONEST}_ahead"] = ahead.mean
        figures[f"{task}_settlement_ahead_at_least"] = margin(by_mode["settlement"])[1].low
        bars[f"{task}_settlement_ahead_at_least"] = Bar(0.0, at_least=True)
    return Measurements("strategies", figures, bars)


def main(arguments: Sequence[str]) -> int:
    """Exit code 0 if the honest strategy wins under ``settlement`` on every task."""
    parser = argparse.ArgumentParser(description="What each reward mode pays for.")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"episodes of each strategy; default {SEEDS}")
    seeds = parser.parse_args(arguments).seeds
    if seeds < 2:
        parser.error(f"--seeds must be at least 2, got {seeds}")
    result = measure(seeds)
    result.show()
    return 0 if result.ok else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
