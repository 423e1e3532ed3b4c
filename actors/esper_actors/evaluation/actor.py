"""The Ray shell of an evaluator."""

from collections.abc import Mapping

import ray
import torch

from esper_actors.evaluation.candidates import Candidate
from esper_actors.evaluation.evaluator import EpisodeResult, Evaluator
from esper_actors.evaluation.pool import EvaluationTask, evaluate
from esper_ray.leyline.config.run import RunConfig


@ray.remote
class EvaluationActor:
    """Plays one episode after another on one device."""

    def __init__(self, config: RunConfig, candidates: Mapping[str, Candidate], device: str, greedy: bool) -> None:
        torch.set_num_threads(config.system.threads)
        self._candidates = candidates
        self._evaluator = Evaluator(config, device, greedy=greedy)

    def play(self, job: EvaluationTask) -> EpisodeResult:
        """One episode, from reset to its end."""
        return evaluate(self._evaluator, self._candidates, job)
