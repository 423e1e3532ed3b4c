"""Cost of an environment step over a plain loop, and speed-up of two actors.

The plain loop does the same training and the same validation pass as a step without seeds, on the
same host, data and batches, in ordinary PyTorch. The second comparison runs the same rounds twice
through the same controller parts, serially and on Ray, without the start of the workers.
"""

from time import perf_counter

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from benchmarks.report import Bar, Measurements, paired_seconds
from esper_actors.factory import make_workers
from esper_actors.rollout.recorder import Assignment
from esper_actors.rollout.runner import episode_seed
from esper_actors.training.learner.ppo import exploration_share
from esper_actors.training.local import LocalWorkerGroup
from esper_actors.training.workers import QUIET, WorkerGroup, play_round
from esper_ray.environment import MorphogenesisEnv
from esper_ray.kasmina.hosts import build_host
from esper_ray.leyline.actions import WAIT
from esper_ray.leyline.config.loading import build, read_preset
from esper_ray.leyline.config.run import RunConfig
from esper_ray.tolaria.data import epoch_batches

PAIRS = 40
ROUNDS = 4
"""Number of timed rounds, after one warm-up round."""
PARTS = ("play_round", "update")


class PlainSteps:
    """The host of the preset in an ordinary PyTorch training loop."""

    def __init__(self, env: MorphogenesisEnv) -> None:
        config = env.config.training
        self.data, self.config, self.epoch = env.data, config, 0
        self.host = build_host(env.config.host, tuple(self.data.train.images.shape[1:]), self.data.classes).module
        self.optimizer = torch.optim.SGD(
            self.host.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )

    def __call__(self) -> tuple[float, float]:
        """One epoch and one validation pass: loss and accuracy."""
        data, config = self.data, self.config
        rows = epoch_batches(0, self.epoch, len(data.train), config.batch_size, config.steps_per_epoch)
        self.epoch += 1
        self.host.train()
        for batch in rows:
            x = (data.train.images[batch].float() - data.mean) / data.deviation
            loss = cross_entropy(self.host(x), data.train.labels[batch])
            self.optimizer.zero_grad()
            loss.backward()
            clip_grad_norm_(self.host.parameters(), config.host_grad_clip)
            self.optimizer.step()
        self.host.eval()
        with torch.no_grad():
            logits = self.host((data.validation.images.float() - data.mean) / data.deviation)
            loss = cross_entropy(logits, data.validation.labels)
            accuracy = (logits.argmax(dim=1) == data.validation.labels).float().mean()
        return float(loss), float(accuracy)


def step_over_plain_loop(config: RunConfig) -> dict[str, float]:
    """Milliseconds of a step and of the plain loop, and their ratio."""
    env = MorphogenesisEnv(config.model_copy(update={"episode_length": 10**6}))
    env.reset(seed=0)
    action = WAIT.to_indices()
    step, plain, ratio = paired_seconds(lambda: env.step(action), PlainSteps(env), PAIRS)
    return {"env_step_ms": 1e3 * step, "plain_loop_ms": 1e3 * plain, "env_step_over_plain_loop": ratio}


def ray_over_serial(config: RunConfig) -> dict[str, float]:
    """Seconds of the same rounds in one process and on two actors, and speed-up.

    Both worker groups learn the same, so every round is the same work for both; the alternation cancels slow changes
    of the machine's load.
    """
    seconds = {"serial": [0.0, 0.0], "ray": [0.0, 0.0]}
    with LocalWorkerGroup(config) as serial, make_workers(config) as on_ray:
        for index in range(ROUNDS + 1):
            for name, workers in (("serial", serial), ("ray", on_ray)):
                playing, learning = _round(workers, config, index)
                if index > 0:
                    seconds[name][0] += playing
                    seconds[name][1] += learning
    figures = {f"{name}_{part}_s": s for name, both in seconds.items() for part, s in zip(PARTS, both, strict=True)}
    return figures | {
        "ray_speed_up_play": seconds["serial"][0] / seconds["ray"][0],
        "ray_speed_up": sum(seconds["serial"]) / sum(seconds["ray"]),
    }


def _round(workers: WorkerGroup, config: RunConfig, index: int) -> tuple[float, float]:
    """Seconds of rollout and of update in one round."""
    envs = range(config.system.envs)
    assignments = [Assignment(index * len(envs) + env, env, episode_seed(config.seed, index, env)) for env in envs]
    began = perf_counter()
    episodes = play_round(workers, assignments, exploration_share(config.ppo, index), round_index=index)
    played = perf_counter()
    workers.update(episodes, index, QUIET)
    return played - began, perf_counter() - played


def measure() -> Measurements:
    """Run the benchmark."""
    torch.set_num_threads(1)
    config = build(read_preset("digits"))
    figures = step_over_plain_loop(config) | ray_over_serial(config)
    bars = {"env_step_over_plain_loop": Bar(1.10), "ray_speed_up": Bar(1.6, at_least=True)}
    return Measurements("env_step", figures, bars)


if __name__ == "__main__":
    result = measure()
    result.show()
    raise SystemExit(0 if result.ok else 1)
