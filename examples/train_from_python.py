"""Train a policy from Python: a preset, some rounds, progress on the console, and the policy as a file.

    python examples/train_from_python.py --rounds 3

The same call works in a notebook. Without ``system.workers=local`` environments and learner are Ray actors.
"""

import argparse
from pathlib import Path

from esper_ray import load_preset, train
from esper_ray.karn.console import PlainProgress


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="digits")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--envs", type=int, default=4, help="episodes per round")
    parser.add_argument("--run", type=Path, help="run directory; one that exists is resumed")
    parser.add_argument("--ray", action="store_true", help="Ray actors instead of one process")
    options = parser.parse_args()

    workers = "ray" if options.ray else "local"
    config = load_preset(options.preset, {"system.workers": workers, "system.envs": options.envs})
    result = train(config, rounds=options.rounds, run=options.run, observers=[PlainProgress()])

    print(f"{result.status}: {result.run.path}")
    if result.best:  # empty if the run was interrupted in its first round
        print(f"best round {result.best['round'] + 1}: validation accuracy {result.best['val_accuracy_ratio']:.1%}")
    print(f"policy of {result.policy.manifest.parameters:,} parameters, trained on {config.task.name}")


if __name__ == "__main__":
    main()
