"""Train Policy V2 with one of RLlib's own algorithms, asynchronous PPO, on growing networks.

    python examples/train_with_rllib_appo.py --iterations 3 --episode-length 10

Everything but the environment and the policy is RLlib's: its actors play, its learner updates while they do, with
V-trace and a target network. ``ppo_config`` of the same module gives RLlib's PPO with our own loss.
"""

import argparse
import logging
import time

from esper_actors.cluster.settings import choose_ray_settings
from esper_ray.leyline.config.loading import build, read_preset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--preset", default="digits")
    parser.add_argument("--episode-length", type=int, default=10, help="environment steps; the preset has its own")
    arguments = parser.parse_args()
    changes = {
        "episode_length": arguments.episode_length,
        "ppo.rounds": arguments.iterations,
        "system.envs": 2,
        "system.envs_per_actor": 1,
    }
    config = build(read_preset(arguments.preset), changes)

    choose_ray_settings()  # before anything imports Ray
    from esper_actors.cluster.connection import start_ray
    from esper_actors.rllib.config import appo_config

    start_ray(cpus=2)
    for name in ("ray", "ray.rllib"):
        logging.getLogger(name).setLevel(logging.ERROR)  # RLlib warns of its own deprecated parts
    started = time.monotonic()
    algorithm = appo_config(config).build_algo()
    print(f"APPO on {arguments.preset}: 2 actors ready after {time.monotonic() - started:.0f} s")
    for iteration in range(1, arguments.iterations + 1):
        line = described(algorithm.train())
        print(f"{iteration:3d}  {time.monotonic() - started:4.0f} s  {line}")
    algorithm.stop()


def described(result: dict) -> str:
    """One line about the result of an iteration."""
    played, learned = result["env_runners"], result.get("learners", {}).get("default_policy", {})
    steps = f"{played.get('num_env_steps_sampled_lifetime', 0):5.0f} steps"
    if "episode_return_mean" not in played:
        return f"{steps}  no episode has ended yet"
    line = f"{steps}  return {played['episode_return_mean']:+6.2f}  accuracy {played['val_accuracy_pp']:5.1f} %"
    return f"{line}  entropy {learned['entropy']:.2f}" if "entropy" in learned else line


if __name__ == "__main__":
    main()
