"""Train on the cluster that this script runs on.

    ray submit configs/cluster/on_premise.yaml examples/train_on_cluster.py --preset digits --rounds 20
    python examples/train_on_cluster.py --rounds 2                     # beside a local `ray start --head`
    python examples/train_on_cluster.py --rounds 2 --address local     # with a cluster of its own

The run has a name and, with --storage, a copy that all nodes can read: submitted again, the script resumes the run.
All other options of `esper train ppo` are settings: --set ppo.lr=1e-3 --set system.devices=[cuda:0,cuda:1].
"""

import argparse
import os
import sys
from pathlib import Path

from esper_ray.cli.errors import reported
from esper_ray.cli.jobs.run_lookup import run_by_name
from esper_ray.cli.jobs.train import PPOJob
from esper_ray.cli.options import check_run, checked_storage, configuration


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="digits")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--envs", type=int, help="episodes per round")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="any configuration key")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="for run directories, on this machine")
    parser.add_argument("--run-id", default="on-cluster")
    parser.add_argument("--storage", help="folder or URI that all nodes see")
    parser.add_argument(
        "--address", default=os.environ.get("RAY_ADDRESS", "auto"), help="auto: the cluster of this machine"
    )
    options = parser.parse_args()
    if options.address != "local":
        os.environ["RAY_ADDRESS"] = options.address  # before anything imports Ray

    with reported():
        storage = None if options.storage is None else checked_storage(options.storage)
        previous = run_by_name(options.run_id, options.folder, storage)
        flags = {"ppo.rounds": options.rounds, "system.envs": options.envs}
        config = configuration(options.preset, None, flags, options.set, previous and previous.config())
        check_run(config)
        job = PPOJob(
            config,
            options.folder,
            previous=previous,
            save=None,
            command=sys.argv,
            run_id=options.run_id,
            storage=storage,
        )
        raise SystemExit(job.run())


if __name__ == "__main__":
    main()
