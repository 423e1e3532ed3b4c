"""Cost of PPO over its network: an update over bare passes, a decision over a bare forward.

The policy has the sizes of the preset digits, one thread. The bare passes run forward and backward over the same
minibatches, as often as the update; their loss is the sum of all outputs, without an optimizer step.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmarks.report import Bar, Measurements, paired_seconds
from esper_actors.training.learner.batches import padded_batch
from esper_actors.training.learner.ppo import PPOLearner
from esper_policies.network import Memory, PolicyNetwork, PolicyOutput
from esper_policies.tamiyo import LearnedPolicy
from esper_ray.leyline.actions import ARGUMENT_HEADS, head_sizes
from esper_ray.leyline.config.loading import build, read_preset
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.context import CONTEXT_SIZE, context_of
from esper_ray.leyline.legality import Masks
from esper_ray.leyline.observation import BASE_SIZE, SLOT_SIZE, blueprint_indices, observation_size
from esper_ray.leyline.policy import Episode, Trajectory, View
from esper_ray.leyline.records import HostSignals

EPISODES, STEPS, SLOTS = 10, 150, 3
UPDATE_PAIRS = 7
DECISION_PAIRS, DECISIONS = 301, 5
NEVER = 1e9
"""A divergence that no update reaches."""


def _config() -> RunConfig:
    return build(read_preset("digits"), {"ppo.target_kl": NEVER, "episode_length": STEPS})


def _open_masks() -> Masks:
    sizes = head_sizes(SLOTS)
    return Masks(np.ones((6, SLOTS), np.bool_), {head: np.ones(sizes[head], np.bool_) for head in ARGUMENT_HEADS})


def _features(rng: np.random.Generator, steps: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    features = rng.uniform(-1.0, 1.0, (steps, observation_size(SLOTS))).astype(np.float32)
    features[:, BASE_SIZE::SLOT_SIZE] = 1.0
    return features


def _episode(learner: PPOLearner, index: int) -> Episode:
    """An episode of random states, with actions and log-probabilities of the learner's present policy."""
    rng = np.random.default_rng(index)
    zeros = np.zeros(STEPS, np.float32)
    trajectory = Trajectory(
        features=_features(rng, STEPS),
        blueprints=rng.integers(0, 13, (STEPS, SLOTS)),
        context=rng.uniform(0.0, 1.0, (STEPS, SLOTS, CONTEXT_SIZE)).astype(np.float32),
        masks=np.repeat(_open_masks().vector()[None], STEPS, axis=0),
        actions=np.zeros((STEPS, 8), np.int64),
        log_prob_op=zeros,
        log_prob_arguments=zeros,
        values=zeros,
        q_taken=zeros,
        rewards=rng.normal(size=STEPS),
        bootstrap=0.0,
        terminated=False,
    )
    episode = Episode(index, index, index, trajectory, (), 0.0, 0.0, 0.0, 1.0, {}, 0, 0, False)
    with torch.no_grad():
        distribution, *_ = learner._evaluate(padded_batch([episode], learner.device), 0.0)
        trajectory.actions[:] = distribution.sample(torch.Generator().manual_seed(index)).actions.numpy()
        op, arguments = distribution.log_probs(torch.from_numpy(trajectory.actions))
    trajectory.log_prob_op[:], trajectory.log_prob_arguments[:] = op.numpy(), arguments.numpy()
    return episode


def _sum_of_outputs(output: PolicyOutput) -> Tensor:
    tables = (output.logits.op, output.logits.slot, *output.logits.arguments.values(), output.q)
    return torch.stack([table.sum() for table in tables]).sum()


def _bare_passes(learner: PPOLearner, episodes: list[Episode]) -> Callable[[], None]:
    """Forward and backward passes over the prepared minibatches of the learner's next update."""
    batch = padded_batch(episodes, learner.device)
    seen = (batch.features, batch.blueprints, batch.context)
    minibatches = [[part[rows] for part in seen] for rows in learner._minibatches(len(episodes))]
    network = PolicyNetwork(learner.config.policy)

    def passes() -> None:
        for parts in minibatches:
            network.zero_grad(set_to_none=True)
            _sum_of_outputs(network(*parts)).backward()  # type: ignore[no-untyped-call]

    return passes


def _view() -> View:
    signals = HostSignals(1, STEPS, 1.0, 50.0, (), (), 0, True)
    reports = (None,) * SLOTS
    features = _features(np.random.default_rng(0), 1)[0]
    return View(features, blueprint_indices(reports), context_of((), SLOTS), _open_masks(), reports, signals)


def _decisions(policy: LearnedPolicy, view: View) -> Callable[[], None]:
    def decide() -> None:
        for _ in range(DECISIONS):
            policy.decide(view)

    return decide


def _bare_forwards(network: PolicyNetwork, view: View) -> Callable[[], None]:
    """Forward passes of one step, each with the memory of the previous one."""
    seen = [torch.from_numpy(part)[None, None] for part in (view.features, view.blueprints, view.context)]
    memory: list[Memory | None] = [None]

    @torch.inference_mode()
    def forward() -> None:
        for _ in range(DECISIONS):
            output = network(*seen, memory[0])
            memory[0], _ = output.memory, list(output.logits.arguments.values())

    return forward


def measure() -> Measurements:
    """Run the benchmark."""
    torch.set_num_threads(1)
    learner = PPOLearner(_config())
    episodes = [_episode(learner, index) for index in range(EPISODES)]
    passes = _bare_passes(learner, episodes)
    update_s, passes_s, update = paired_seconds(lambda: learner.update(episodes, 0), passes, UPDATE_PAIRS)
    policy, view = LearnedPolicy(learner.config.policy), _view()
    policy.load(learner.weights(), 0.1)
    policy.begin_episode(0)
    deciding, forwards = _decisions(policy, view), _bare_forwards(policy.network, view)
    decide_s, forward_s, decision = paired_seconds(deciding, forwards, DECISION_PAIRS)
    figures = {
        "update_ms": 1e3 * update_s,
        "bare_passes_ms": 1e3 * passes_s,
        "update_over_bare_passes": update,
        "decision_ms": 1e3 * decide_s / DECISIONS,
        "bare_forward_ms": 1e3 * forward_s / DECISIONS,
        "decision_over_bare_forward": decision,
    }
    bars = {"update_over_bare_passes": Bar(1.3), "decision_over_bare_forward": Bar(1.5)}
    return Measurements("ppo_update", figures, bars)


if __name__ == "__main__":
    result = measure()
    result.show()
    raise SystemExit(0 if result.ok else 1)
