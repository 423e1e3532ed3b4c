"""Train on the cluster that this script runs on.

    ray submit configs/cluster/on_premise.yaml examples/train_on_cluster.py --preset digits --rounds 20
    python examples/train_on_cluster.py --rounds 2                     # beside a local `ray start --head`
    python examples/train_on_cluster.py --rounds 2 --address local     # with a cluster of its own

The run has a name and, with --storage, a copy that all nodes can read: submitted again, the script resumes the run.
All other options of `esper train ppo` are settings: --set ppo.lr=1e-3 --set system.devices=[cuda:0,cuda:1].
"""

import argparse
import os
from pathlib import Path

from rich.console import Console

from esper_ray import load_config, load_preset, train
from esper_ray.cli.options import key_values
from esper_ray.karn.console.progress import PlainProgress, RunHeader
from esper_ray.leyline.errors import UserError


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", help="preset by name; default: that of --config, else digits")
    parser.add_argument("--config", type=Path, help="configuration file: complete, or what differs from a preset")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--envs", type=int, help="episodes per round")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any configuration key")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="for run directories, on this machine")
    parser.add_argument("--run-id", default="on-cluster")
    parser.add_argument("--storage", help="folder or URI that all nodes see")
    parser.add_argument(
        "--address", default=os.environ.get("RAY_ADDRESS", "auto"), help="auto: the cluster of this machine"
    )
    options = parser.parse_args()
    if options.address != "local":
        os.environ["RAY_ADDRESS"] = options.address  # before anything imports Ray

    try:
        overrides = key_values({"ppo.rounds": options.rounds, "system.envs": options.envs}, options.set)
        if options.config is None:
            config = load_preset(options.preset or "digits", overrides)
        else:
            config = load_config(options.config, overrides, preset=options.preset)
        run = options.folder / options.run_id
        header = RunHeader(Console(), f"{config.name}: {config.ppo.rounds} rounds of {config.system.envs} episodes")
        result = train(config, run=run, storage=options.storage, observers=[header, PlainProgress()])
    except UserError as error:
        print(f"error: {error}")
        return error.exit_code
    print(f"{result.run.path} is {result.status}: {result.progress.round_index} of {config.ppo.rounds} rounds")
    return 0 if result.status == "finished" else 130


if __name__ == "__main__":
    raise SystemExit(main())
