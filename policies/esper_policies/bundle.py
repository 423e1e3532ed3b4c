"""The policy bundle: one self-contained file with a trained policy.

A blob (:mod:`esper_ray.leyline.files.blob`) whose tensors are those of :class:`~esper_policies.network.PolicyNetwork`
(weights, normalizer, mean and unit of value), and whose content is a manifest. Nothing in it needs unpickling.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import safetensors.torch
from pydantic import Field
from torch import Tensor

from esper_policies.network import PolicyNetwork, network_specs
from esper_policies.tamiyo import LearnedPolicy
from esper_ray.leyline.actions import action_names
from esper_ray.leyline.blueprints import Topology
from esper_ray.leyline.config.base import Section
from esper_ray.leyline.config.growth import GrowthConfig
from esper_ray.leyline.config.run import PolicyConfig
from esper_ray.leyline.context import SLOT_CONTEXT
from esper_ray.leyline.errors import UserError
from esper_ray.leyline.files.blob import BlobFormat
from esper_ray.leyline.files.tensors import listed, tensor_problems
from esper_ray.leyline.files.validation import validated
from esper_ray.leyline.observation import observation_names

EXTENSION = ".esper"
PRETRAINED = Path(__file__).parent / "pretrained"
"""Folder of the bundles that ship, each with a card."""


class BundleError(UserError, ValueError):
    """Unreadable bundle, or a policy that does not fit the host, slots or task."""

    remedy = "Export the policy again with `esper export-policy`, or choose slots that it was trained for."


BUNDLE = BlobFormat("policy bundle", 4, BundleError, safetensors.torch)


class Provenance(Section):
    """The origin of a policy."""

    run: str
    round: Annotated[int, Field(ge=0)]
    """Number of training rounds."""
    episodes: Annotated[int, Field(ge=0)]
    """Number of training episodes."""
    config_sha256: str
    task: str
    reward: str
    episode_length: Annotated[int, Field(ge=1)]
    package: str
    """Version of esper-ray."""


class BundleManifest(Section):
    """The manifest of a bundle."""

    observation: tuple[str, ...]
    """Names of the observed numbers: of the host, then of one slot and its context."""
    actions: tuple[str, ...]
    """Names of the action indices."""
    topologies: tuple[Topology, ...]
    """Topologies that it was trained on."""
    growth: GrowthConfig
    """Blueprints, styles and lifecycle rules of its training, and its slots, which may differ in use."""
    policy: PolicyConfig
    parameters: Annotated[int, Field(ge=0)]
    weights_sha256: str
    provenance: Provenance


@dataclass(frozen=True, slots=True)
class PolicyBundle:
    """A policy that was read and checked against this version."""

    manifest: BundleManifest
    weights: Mapping[str, Tensor]

    def player(self, device: str = "cpu", *, greedy: bool = True) -> LearnedPolicy:
        """The policy, without exploration.

        Args:
            greedy: take the mode; ``False``: sample.
        """
        policy = LearnedPolicy(self.manifest.policy, device)
        policy.load(dict(self.weights), epsilon=0.0)
        policy.greedy = greedy
        return policy

    def check_serves(self, topologies: Mapping[str, Topology]) -> None:
        """Check that the policy was trained on the topologies of all slots.

        Args:
            topologies: topology by slot id.

        Raises:
            BundleError: if some are missing from its training.
        """
        check_topologies(self.manifest.topologies, self.manifest.provenance.task, topologies)


def check_topologies(learned: Sequence[Topology], task: str, topologies: Mapping[str, Topology]) -> None:
    """Check that a policy of ``task`` was trained on the topologies of all slots.

    Raises:
        BundleError: if some are not among those that it has ``learned``.
    """
    strange = [f"{slot} has {topology.value}" for slot, topology in topologies.items() if topology not in learned]
    if strange:
        names = ", ".join(topology.value for topology in learned)
        raise BundleError(f"the policy has learned to grow on {names} (task {task!r}), but {', '.join(strange)}")


def pretrained_names() -> list[str]:
    """Names of the bundles that ship."""
    return sorted(path.stem for path in PRETRAINED.glob(f"*{EXTENSION}"))


def pretrained_path(name: str) -> Path | None:
    """File of the bundle that ships under ``name``; ``None`` if there is none."""
    return PRETRAINED / f"{name}{EXTENSION}" if name in pretrained_names() else None


def check_blueprints(learned: GrowthConfig, growth: GrowthConfig) -> None:
    """Check that each allowed blueprint is the one that the policy learned by its index.

    Raises:
        BundleError: naming the first that is another one, and the setting that would mend it.
    """
    known, own = learned.own_blueprints, growth.own_blueprints
    for blueprint in sorted(growth.allowed_blueprints):
        trained, present = (names.get(blueprint, blueprint.id) for names in (known, own))
        if trained != present:
            raise BundleError(
                f"the policy has learned what {trained!r} does in the place of {blueprint.id}, but this configuration "
                f"has {present!r} there; set growth.blueprints.{blueprint.id}={trained}, or train a policy with "
                f"{present!r}"
            )


def weights_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and bytes, in hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().resolve_neg().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def policy_observation() -> tuple[str, ...]:
    """Names of the numbers that Policy V2 reads: of the host, then of one slot and its context."""
    return (*observation_names(["slot"]), *(f"slot.context.{name}" for name in SLOT_CONTEXT))


def save_bundle(
    path: Path,
    weights: Mapping[str, Tensor],
    *,
    policy: PolicyConfig,
    growth: GrowthConfig,
    topologies: Sequence[Topology],
    provenance: Provenance,
    replace: bool = False,
) -> BundleManifest:
    """Write a bundle atomically.

    Args:
        weights: tensors of the network, as from ``PPOLearner.weights``.
        replace: overwrite an existing file.

    Raises:
        BundleError: if the file is there, its name does not end in ``.esper``, or ``weights`` are not those of such
            a policy.
    """
    if path.suffix != EXTENSION:
        raise BundleError(f"a policy bundle is called NAME{EXTENSION}, got {path}")
    if path.exists() and not replace:
        raise BundleError(f"{path} exists already; --force (in Python: replace=True) overwrites it")
    if not path.parent.is_dir():
        raise BundleError(f"there is no folder {path.parent}")
    BUNDLE.check_writable(weights)
    manifest = BundleManifest(
        observation=policy_observation(),
        actions=action_names(),
        topologies=tuple(topologies),
        growth=growth,
        policy=policy,
        parameters=_network(policy, weights, "these weights").parameter_count(),
        weights_sha256=weights_digest(weights),
        provenance=provenance,
    )
    BUNDLE.write(path, weights, manifest.model_dump(mode="json"))
    return manifest


def load_bundle(path: Path) -> PolicyBundle:
    """Read a bundle.

    Raises:
        BundleError: if it cannot be read, is cut off or changed, or was made for another version, observation, set
            of actions or network; the message says what differs.
    """
    blob = BUNDLE.read(path, f"policy bundle {path}")
    manifest = _manifest(path, blob.content)
    if weights_digest(blob.tensors) != manifest.weights_sha256:
        raise BundleError(f"policy bundle {path} is damaged: its weights are not those of its manifest")
    parameters = _network(manifest.policy, blob.tensors, f"policy bundle {path}").parameter_count()
    if parameters != manifest.parameters:
        raise BundleError(f"policy bundle {path} is damaged: parameters is {manifest.parameters}, it has {parameters}")
    return PolicyBundle(manifest, blob.tensors)


def _manifest(path: Path, tree: Any) -> BundleManifest:
    """The manifest, if it is one for this version."""
    if not isinstance(tree, dict):
        raise BundleError(f"policy bundle {path} is damaged: its manifest is not a JSON object but {tree!r:.80}")
    for what, expected in (("observation", policy_observation()), ("actions", action_names())):
        names = tree.get(what)
        if not isinstance(names, list) or tuple(names) != expected:
            raise BundleError(
                f"policy bundle {path} was made for other {what}: {_difference(tree.get(what), expected)}"
            )
    manifest = validated(BundleManifest, tree, f"policy bundle {path}: its manifest", BundleError)
    missing = _missing_keys(manifest.model_dump(mode="json"), tree)
    if missing:
        raise BundleError(f"policy bundle {path} is not complete: its manifest lacks {', '.join(missing)}")
    return manifest


def _missing_keys(whole: Mapping[str, Any], tree: Any, prefix: str = "") -> list[str]:
    """Dotted keys of ``whole`` that ``tree`` lacks. A default would be another policy than the one that was trained."""
    found = []
    for key, value in whole.items():
        if not isinstance(tree, Mapping) or key not in tree:
            found.append(prefix + key)
        elif isinstance(value, Mapping):
            found += _missing_keys(value, tree[key], f"{prefix}{key}.")
    return found


def _difference(theirs: object, mine: Sequence[str]) -> str:
    """The names that only one list contains, or the first difference in order."""
    names = list(theirs) if isinstance(theirs, list) else []
    missing = [name for name in mine if name not in names]
    extra = [name for name in names if name not in mine]
    parts = [f"it lacks {', '.join(missing)}"] if missing else []
    parts += [f"it has {', '.join(map(str, extra))}, which do not exist here"] if extra else []
    if not parts:
        at = next((i for i, (a, b) in enumerate(zip(names, mine, strict=False)) if a != b), min(len(names), len(mine)))
        parts = [f"{len(names)} names and another order from number {at} on, here there are {len(mine)}"]
    return "; ".join(parts)


def _network(policy: PolicyConfig, weights: Mapping[str, Tensor], owner: str) -> PolicyNetwork:
    """A network with ``weights``.

    Raises:
        BundleError: if they are not those of such a network.
    """
    problems = tensor_problems(weights, network_specs(policy))
    if problems:
        raise BundleError(f"{owner}: {listed(problems)}")
    network = PolicyNetwork(policy, initialise=False)
    network.load_state_dict(dict(weights))
    return network
