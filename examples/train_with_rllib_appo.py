"""Train Policy V2 with RLlib's APPO, asynchronously: the same environment and network, another algorithm.

    python examples/train_with_rllib_appo.py --iterations 3

`actors.rllib.ppo_config` is the other way round: RLlib's sampling and scaling with this project's own loss.
"""

import argparse
import time

import ray

from actors.rllib import appo_config
from actors.settings import choose_ray_settings
from esper_ray.leyline.loading import build, read_preset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="digits")
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--episode-length", type=int, default=20)
    parser.add_argument("--env-runners", type=int, default=1, help="actors that play, one CPU each")
    chosen = parser.parse_args()

    config = build(read_preset(chosen.preset), {"episode_length": chosen.episode_length})
    choose_ray_settings()
    ray.init(num_cpus=chosen.env_runners + 1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    algorithm = appo_config(config, chosen.env_runners).build_algo()
    start, played = time.monotonic(), 0
    for iteration in range(1, chosen.iterations + 1):
        result = algorithm.train()
        seen = result["env_runners"]
        played = int(seen.get("num_episodes_lifetime", played))
        mean = seen.get("episode_return_mean", float("nan"))
        print(f"iteration {iteration}: {played} episodes, return {mean:+.2f}, {time.monotonic() - start:.0f} s")
    algorithm.stop()
    ray.shutdown()


if __name__ == "__main__":
    main()
