"""The placement plan of a run: resource bundles, and the check against a cluster.

Every CUDA device of the run is one bundle, so that its actors share one physical GPU. Every environment actor on a
CPU is one bundle, so that actors may be spread over nodes.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from esper_ray.leyline.config.system import SystemConfig
from esper_ray.leyline.errors import UserError

Resources = Mapping[str, float]

EPSILON = 1e-6


class ResourceError(UserError):
    """A placement that the cluster has too few resources for."""

    remedy = "Ask for fewer environments, smaller GPU shares or other devices, or add nodes."


@dataclass(frozen=True, slots=True)
class Place:
    """The place of one actor: device, bundle and resources."""

    device: str
    """Name of the device in the configuration; an actor sees its own GPU as ``cuda:0``."""
    cpus: float
    gpus: float
    bundle: int | None
    """Number of its bundle; ``None``: no bundle, since it needs no resources."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The placement of all actors of a run, and their resource bundles."""

    environments: tuple[Place, ...]
    learner: Place
    bundles: tuple[dict[str, float], ...]
    strategy: str
    """Strategy of Ray's placement group: PACK, SPREAD, STRICT_PACK or STRICT_SPREAD."""

    def total(self, kind: str) -> float:
        """Total CPUs or GPUs of the plan."""
        return sum(bundle.get(kind, 0.0) for bundle in self.bundles)

    def describe(self) -> str:
        """The plan in one line."""
        groups = [*Counter(_takes(place) for place in self.environments).items()]
        actors = ", ".join(f"{count} x {what}" for what, count in groups)
        learner = _takes(self.learner) or "no resources of its own"
        total = " + ".join(f"{_number(self.total(kind))} {kind}" for kind in ("CPU", "GPU") if self.total(kind))
        return f"environment actors need {actors}; learner {learner}; in all {total}, {self.strategy}"

    def check(self, nodes: Sequence[Resources]) -> None:
        """Refuse a plan that can never be placed.

        Args:
            nodes: resources of each node.

        Raises:
            ResourceError: if it cannot be placed; the message shows the arithmetic.
        """
        for kind in ("CPU", "GPU"):
            has = sum(node.get(kind, 0.0) for node in nodes)
            if self.total(kind) > has + EPSILON:
                raise ResourceError(f"the run needs {self._sum(kind)}, the cluster has {_number(has)}")
        check_bundles(self.bundles, nodes)
        if not self._placeable(nodes):
            bundles = ", ".join(f"{count} x ({what})" for what, count in Counter(map(_together, self.bundles)).items())
            raise ResourceError(f"the run needs {bundles} placed {self.strategy}; {_offers(nodes)}")

    def _sum(self, kind: str) -> str:
        places = [*self.environments, self.learner]
        parts = Counter(place.cpus if kind == "CPU" else place.gpus for place in places)
        terms = " + ".join(f"{count} x {_number(size)} {kind}" for size, count in sorted(parts.items()) if size)
        total = self.total(kind)
        return terms if len([size for size in parts if size]) == 1 else f"{terms} = {_number(total)} {kind}"

    def _placeable(self, nodes: Sequence[Resources]) -> bool:
        """Whether all bundles fit, placed first-fit in decreasing order of size."""
        if self.strategy == "STRICT_PACK":
            whole = {kind: self.total(kind) for kind in ("CPU", "GPU")}
            return any(_fits(whole, node) for node in nodes)
        free = [dict(node) for node in nodes]
        for bundle in sorted(self.bundles, key=lambda b: (b.get("GPU", 0.0), b.get("CPU", 0.0)), reverse=True):
            node = next((node for node in free if _fits(bundle, node)), None)
            if node is None:
                return False
            for kind, amount in bundle.items():
                node[kind] -= amount
            if self.strategy == "STRICT_SPREAD":
                free.remove(node)
        return True


def check_bundles(bundles: Sequence[Resources], nodes: Sequence[Resources]) -> None:
    """Refuse a bundle that no node can hold.

    Raises:
        ResourceError: if there is one; the message lists the resources of the nodes.
    """
    for bundle in bundles:
        if not any(_fits(bundle, node) for node in nodes):
            raise ResourceError(f"the run needs {_together(bundle)} on one node; {_offers(nodes)}")


def make_plan(system: SystemConfig) -> Plan:
    """The plan of a run.

    Raises:
        ResourceError: if the requests for a GPU exceed one GPU.
    """
    served = min(system.envs, len(system.devices))  # every device that has environments needs an actor
    actors = max(math.ceil(system.envs / system.envs_per_actor), served)
    devices = [system.devices[i % len(system.devices)] for i in range(actors)]
    users = Counter([*devices, system.device])
    bundles: list[dict[str, float]] = []
    of_device: dict[str, int] = {}

    def placed(device: str, cpus: float, share: float | None) -> Place:
        gpus = 0.0 if device == "cpu" else 1.0 / users[device] if share is None else share
        if not cpus and not gpus:
            return Place(device, cpus, gpus, None)
        if device == "cpu" or device not in of_device:
            bundles.append(dict.fromkeys(("CPU", "GPU") if gpus else ("CPU",), 0.0))
            of_device[device] = len(bundles) - 1
        bundle = bundles[of_device[device]]
        bundle["CPU"] += cpus
        if gpus:
            bundle["GPU"] += gpus
        return Place(device, cpus, gpus, of_device[device])

    environments = tuple(placed(device, system.threads, system.gpus_per_actor) for device in devices)
    learner = placed(system.device, 0.0, system.gpus_for_learner)
    for device, index in of_device.items():
        requested = bundles[index].get("GPU", 0.0)
        if requested > 1 + EPSILON:
            raise ResourceError(
                f"{device} is one GPU, but its {users[device]} actors need {_number(requested)} of it: name more "
                "devices, or give each actor less (system.gpus_per_actor, system.gpus_for_learner)"
            )
        if "GPU" in bundles[index]:
            bundles[index]["GPU"] = min(round(requested, 6), 1.0)
    whole = tuple({kind: amount for kind, amount in bundle.items() if amount} for bundle in bundles)
    return Plan(environments, learner, whole, system.placement.upper())


def _takes(place: Place) -> str:
    amounts = {"CPU": place.cpus, "GPU": place.gpus}
    return _together(amounts) if any(amounts.values()) else ""


def _together(bundle: Resources) -> str:
    return " + ".join(f"{_number(amount)} {kind}" for kind, amount in bundle.items() if amount)


def _number(amount: float) -> str:
    return f"{amount:.3g}"


def _fits(bundle: Resources, node: Resources) -> bool:
    return all(node.get(kind, 0.0) + EPSILON >= amount for kind, amount in bundle.items())


def _offers(nodes: Sequence[Resources]) -> str:
    counts = Counter(_together({kind: node.get(kind, 0.0) for kind in ("CPU", "GPU")}) or "nothing" for node in nodes)
    return "the cluster has " + ", ".join(
        f"{count} node{'s' if count > 1 else ''} with {what}" for what, count in counts.items()
    )
