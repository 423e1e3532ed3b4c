"""Resource requests of the trials of a sweep, and their check against a cluster."""

from collections.abc import Mapping, Sequence

from esper_actors.cluster.placement import ResourceError, Resources, check_bundles, make_plan
from esper_ray.leyline.config.run import RunConfig

RESOURCE_KINDS = ("CPU", "GPU")


def bundles(config: RunConfig) -> list[dict[str, float]]:
    """The bundles of a trial's placement group. The first is for the process of the trial.

    With ``system.workers`` ``ray`` the process only waits for its actors, so its bundle is empty. With ``local`` it
    runs environments and learner, and there are no other bundles.

    Raises:
        ResourceError: if actors request more than one whole GPU of a device.
    """
    plan = make_plan(config.system)
    if config.system.workers == "ray":
        return [{}, *plan.bundles]
    gpus = {device for device in (*config.system.devices, config.system.device) if device != "cpu"}
    needs = {"CPU": float(max(config.system.threads, config.system.learner_threads))}
    return [needs | ({"GPU": min(plan.total("GPU"), float(len(gpus)))} if gpus else {})]


def check_fits(requests: Mapping[str, list[dict[str, float]]], concurrent: int, has: Mapping[str, float]) -> None:
    """Refuse trials that would wait for resources for ever.

    Args:
        requests: bundles by trial.

    Raises:
        ResourceError: with the arithmetic.
    """
    at_once = max(1, concurrent)
    for kind in RESOURCE_KINDS:
        needs = {trial: amount(trial_bundles, kind) for trial, trial_bundles in requests.items()}
        largest = sorted(needs, key=lambda name: -needs[name])[:at_once]
        total = sum(needs[name] for name in largest)
        if total > has.get(kind, 0.0) + 1e-6:
            terms = " + ".join(f"{needs[name]:g}" for name in largest)
            what = f"trial {largest[0]} needs {total:g}" if len(largest) == 1 else f"{terms} = {total:g}"
            at_a_time = f"{at_once} trials at a time need " if len(largest) > 1 else ""
            raise ResourceError(f"{at_a_time}{what} {kind}, the cluster has {has.get(kind, 0.0):g}")


def check_places(configs: Mapping[str, RunConfig], nodes: Sequence[Resources]) -> None:
    """Refuse trials whose bundles fit the cluster as a whole but no node.

    Args:
        configs: by trial.
        nodes: resources of each node.

    Raises:
        ResourceError: with the trial and the arithmetic.
    """
    systems = {config.system: (name, config) for name, config in reversed(list(configs.items()))}
    for name, config in systems.values():
        try:
            if config.system.workers == "local":
                check_bundles(bundles(config), nodes)
            else:
                make_plan(config.system).check(nodes)
        except ResourceError as error:
            raise ResourceError(f"trial {name}: {error}") from None


def amount(trial_bundles: Sequence[Mapping[str, float]], kind: str) -> float:
    """Total of ``kind`` that a trial requests."""
    return sum(bundle.get(kind, 0.0) for bundle in trial_bundles)
