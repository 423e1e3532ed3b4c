"""The Ray shell of an evaluator."""

from collections.abc import Mapping

import ray
import torch

from actors.contestants import Contestant
from actors.evaluation import Evaluator, Verdict
from actors.evaluation_pool import Job, played
from esper_ray.leyline.config.run import RunConfig


@ray.remote
class EvaluationActor:
    """Plays one episode after another on one device."""

    def __init__(self, config: RunConfig, contestants: Mapping[str, Contestant], device: str, greedy: bool) -> None:
        torch.set_num_threads(config.system.threads)
        self._contestants = contestants
        self._evaluator = Evaluator(config, device, greedy=greedy)

    def play(self, job: Job) -> Verdict:
        """One episode, from reset to its end."""
        return played(self._evaluator, self._contestants, job)
