"""The environment through Gymnasium alone: random legal actions for one episode.

python examples/random_policy.py
"""

import gymnasium
import numpy as np

import esper_ray  # noqa: F401 - importing it registers the environment
from esper_ray.leyline.actions import HEADS


def main() -> None:
    env = gymnasium.make("esper_ray/Morphogenesis-v0", preset="digits")
    rng = np.random.default_rng(0)
    _, info = env.reset(seed=0)
    total, over = 0.0, False
    while not over:
        action = legal_action(env, rng)
        _, reward, terminated, truncated, info = env.step(action)
        total += float(reward)
        over = terminated or truncated
        print(
            f"epoch {info['epoch']:2d}  {info['operation']:<16} reward {reward:+.3f}  {info['val_accuracy_pp']:.1f} %"
        )
    print(f"return {total:+.2f}, {info['growth_ratio']:.2f} times the parameters of the host")


def legal_action(env: gymnasium.Env, rng: np.random.Generator) -> np.ndarray:
    """One legal choice per head. A slot that does not fit the operation makes it a WAIT."""
    masks = env.unwrapped.action_masks()
    sizes = env.action_space.nvec
    starts = np.concatenate([[0], np.cumsum(sizes)])
    choices = [rng.choice(np.flatnonzero(masks[starts[i] : starts[i + 1]])) for i in range(len(HEADS))]
    return np.asarray(choices)


if __name__ == "__main__":
    main()
