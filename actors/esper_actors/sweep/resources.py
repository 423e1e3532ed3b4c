"""What a trial of a sweep asks of a cluster, and whether it fits."""

from collections.abc import Mapping, Sequence

from esper_actors.cluster.placement import ResourceError, Resources, check_bundles, make_plan
from esper_ray.leyline.config.run import RunConfig

RESOURCE_KINDS = ("CPU", "GPU")


def bundles(config: RunConfig) -> list[dict[str, float]]:
    """What a trial asks for, as the bundles of a placement group. The first is for the trial's own process.

    With ``system.workers`` ``ray`` that process waits while its actors work, so its bundle is empty. With ``local``
    it plays and learns, one after the other, and there are no other bundles.

    Raises:
        ResourceError: if more is asked of a GPU than there is of one.
    """
    plan = make_plan(config.system)
    if config.system.workers == "ray":
        return [{}, *plan.bundles]
    gpus = {device for device in (*config.system.devices, config.system.device) if device != "cpu"}
    needs = {"CPU": float(max(config.system.threads, config.system.learner_threads))}
    return [needs | ({"GPU": min(plan.total("GPU"), float(len(gpus)))} if gpus else {})]


def check_fits(asked: Mapping[str, list[dict[str, float]]], concurrent: int, has: Mapping[str, float]) -> None:
    """Refuse at once what would otherwise wait for ever.

    Args:
        asked: bundles by trial.

    Raises:
        ResourceError: with the arithmetic.
    """
    at_once = max(1, concurrent)
    for kind in RESOURCE_KINDS:
        needs = {trial: amount(wanted, kind) for trial, wanted in asked.items()}
        largest = sorted(needs, key=lambda name: -needs[name])[:at_once]
        total = sum(needs[name] for name in largest)
        if total > has.get(kind, 0.0) + 1e-6:
            terms = " + ".join(f"{needs[name]:g}" for name in largest)
            what = f"trial {largest[0]} needs {total:g}" if len(largest) == 1 else f"{terms} = {total:g}"
            at_a_time = f"{at_once} trials at a time need " if len(largest) > 1 else ""
            raise ResourceError(f"{at_a_time}{what} {kind}, the cluster has {has.get(kind, 0.0):g}")


def check_places(configs: Mapping[str, RunConfig], nodes: Sequence[Resources]) -> None:
    """Refuse trials whose bundles no node can hold, though the cluster as a whole has enough.

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


def amount(wanted: Sequence[Mapping[str, float]], kind: str) -> float:
    """How much of ``kind`` a trial asks for in all."""
    return sum(bundle.get(kind, 0.0) for bundle in wanted)
