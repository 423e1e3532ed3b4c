"""Search for the best script: random fixed schedules, played on seeds of training, halved again and again.

A script says which blueprint goes where, and when: what a user writes after a few minutes with a task. So it is the
control that a learned policy must beat first.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from esper_actors.evaluation.candidates import FOUND_SCRIPT, Candidate
from esper_actors.evaluation.pool import EvaluationTask, EvaluatorPool
from esper_actors.training.workers import ShouldStop
from esper_policies.baselines import ScriptLine
from esper_ray.leyline.actions import Blueprint
from esper_ray.leyline.legality import Limits
from esper_ray.leyline.results.evaluation import Score
from esper_ray.tolaria.assembly import derived_seed

FIRST_SCRIPT_SEED = 1000
"""First seed on which scripts are tried; evaluations begin at 0."""
ROUNDS = 4
"""Rounds of the search: each plays as many lives, with half as many scripts on twice as many seeds."""
SCRIPT_ORDER = 203
"""Key of the random scripts."""
LATEST = 0.5
"""Latest epoch of a germination, over the length of an episode."""

Script = tuple[ScriptLine, ...]


@dataclass(frozen=True, slots=True)
class FoundScript:
    """The best script of a search, and the cost of finding it."""

    script: Script
    objective_pp: float
    """Mean objective on the seeds of the last round."""
    lives: int
    """Episodes that were played."""
    flops: float
    """Operations of their training."""

    def candidate(self) -> Candidate:
        """The script as a candidate of an evaluation."""
        return Candidate(FOUND_SCRIPT, script=self.script)


def random_scripts(limits: Limits, epochs: int, number: int, seed: int) -> dict[str, Candidate]:
    """``number`` different random scripts by label.

    Each grows some of the slots, at least one, one after another in a random order. A seed is germinated at once or
    from a random epoch on, and committed as soon as it holds.

    Raises:
        ValueError: if the limits allow no blueprint.
    """
    names = [limits.blueprint_name(b) for b in sorted(limits.blueprints) if b is not Blueprint.NOOP]
    if not names:
        raise ValueError("scripts need at least one blueprint; growth.blueprints allows none")
    rng = np.random.default_rng(derived_seed(seed, SCRIPT_ORDER))
    scripts: dict[Script, None] = {}
    while len(scripts) < number:
        most = min(len(limits.slots), limits.max_seeds or len(limits.slots))
        lines = []
        for slot in rng.permutation(len(limits.slots))[: rng.integers(1, most + 1)]:
            start = int(rng.integers(int(LATEST * epochs) + 1)) if rng.random() < 0.5 else 0
            blueprint = names[int(rng.integers(len(names)))]
            lines.append(ScriptLine(epoch=start, op="germinate", slot=int(slot), blueprint=blueprint))
            lines.append(ScriptLine(epoch=0, op="fossilize", slot=int(slot)))
        scripts[tuple(lines)] = None
    return {f"script {number}": Candidate(f"script {number}", script=script) for number, script in enumerate(scripts)}


def first_scripts(lives: int) -> int:
    """Number of scripts in the first round of a search of ``lives`` episodes.

    Raises:
        ValueError: if that is not enough for a search.
    """
    if lives < ROUNDS * 2 ** (ROUNDS - 1):
        raise ValueError(f"a search for a script needs at least {ROUNDS * 2 ** (ROUNDS - 1)} episodes, got {lives}")
    return lives // ROUNDS


def best_script(
    players: EvaluatorPool,
    scripts: Mapping[str, Candidate],
    should_stop: ShouldStop,
    on_score: Callable[[Score], None] = lambda score: None,
) -> FoundScript:
    """The best of ``scripts`` by the mean objective, found by successive halving.

    Args:
        players: evaluators that know the scripts by label; seeds begin with ``FIRST_SCRIPT_SEED``.

    Raises:
        Interrupted: if a stop is requested before the last episode.
    """
    left = list(scripts)
    objectives: dict[str, list[float]] = {label: [] for label in scripts}
    flops, lives = 0.0, 0
    for number in range(ROUNDS):
        seeds = range(FIRST_SCRIPT_SEED + 2**number - 1, FIRST_SCRIPT_SEED + 2 ** (number + 1) - 1)
        tasks = [EvaluationTask(label, seed) for label in left for seed in seeds]
        for task, result in players.play(tasks, should_stop):
            objectives[task.label].append(result.score.objective_pp)
            flops, lives = flops + result.score.train_flops, lives + 1
            on_score(result.score)
        left.sort(key=lambda label: -fmean(objectives[label]))
        left = left[: max(1, len(left) // 2)] if number + 1 < ROUNDS else left[:1]
    script = scripts[left[0]].script
    assert script is not None
    return FoundScript(script, fmean(objectives[left[0]]), lives, flops)
