"""Sections ``system`` and ``telemetry``: placement, fault tolerance and amount of telemetry."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from esper_ray.leyline.config.base import Duration, Integer, Number, Period, Seconds, Section, Share
from esper_ray.leyline.errors import shortened

TelemetryLevel = Literal["off", "normal", "debug"]
DEVICE = re.compile(r"cpu|cuda(:(0|[1-9][0-9]{0,2}))?")
"""A device, as a regular expression of the whole text."""
Devices = Annotated[tuple[str, ...], Field(max_length=1024)]

FREE = (
    "workers",
    "envs_per_actor",
    "slots_per_actor",
    "gpus_per_actor",
    "gpus_for_learner",
    "placement",
    "wait_for_resources_s",
    "snapshot_every",
    "tries",
    "straggler_s",
)
"""Fields without effect on results: a run may be resumed with other values."""


class SystemConfig(Section):
    """Workers, devices, placement and fault tolerance of a run."""

    workers: Literal["ray", "local"] = Field(
        "ray", description="ray: actors on a cluster; local: environments and learner in the process of the run"
    )
    envs: Integer = Field(2, ge=1, le=10_000, description="episodes per round")
    envs_per_actor: Integer = Field(1, ge=1, le=10_000, description="environments per actor")
    slots_per_actor: Integer = Field(1, ge=1, le=1024, description="concurrent episodes of an actor, on CUDA streams")
    device: str = Field("cpu", description="device of the learner")
    devices: Devices = Field(("cpu",), description="devices of the environments, assigned in turn")
    threads: Integer = Field(1, ge=1, le=1024, description="torch threads of each environment actor")
    learner_threads: Integer = Field(1, ge=1, le=1024, description="torch threads of the learner")
    gpus_per_actor: Share | None = Field(
        None, description="share of a GPU for each environment actor; null: an equal share"
    )
    gpus_for_learner: Share | None = Field(None, description="share of a GPU for the learner; null: an equal share")
    placement: Literal["pack", "spread", "strict_pack", "strict_spread"] = Field(
        "pack", description="how Ray places the actors of a run on the nodes of a cluster"
    )
    wait_for_resources_s: Seconds = Field(
        0.0, description="seconds to wait for nodes that a cluster may still start, before a run is refused"
    )
    snapshot_every: Duration = Field(
        10,
        description="steps between snapshots of an episode, from which a restarted worker resumes; 0: only at its end",
    )
    tries: Integer = Field(
        3, ge=1, le=1000, description="failures in a row without progress before an environment is quarantined"
    )
    straggler_s: Annotated[Number, Field(gt=0, le=604_800)] | None = Field(
        None, description="seconds after which an unfinished episode is reported; null: never"
    )
    staleness: Integer = Field(
        0, ge=0, le=1, description="versions by which the weights of the rollout may be older than the newest"
    )

    def decisive(self) -> dict[str, Any]:
        """The fields that affect results, with devices reduced to their kinds."""
        tree = self.model_dump(mode="json", exclude=set(FREE))
        kinds = [name.partition(":")[0] for name in self.devices]
        return tree | {"device": self.device.partition(":")[0], "devices": kinds[:1] if len(set(kinds)) == 1 else kinds}

    @field_validator("device", "devices")
    @classmethod
    def _devices(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        names = (value,) if isinstance(value, str) else value
        if not names:
            raise ValueError("at least one device is needed, got none")
        for name in names:
            if not DEVICE.fullmatch(name):
                raise ValueError(f"device {shortened(name)} is not one of 'cpu', 'cuda', 'cuda:<index>'")
        full = tuple("cuda:0" if name == "cuda" else name for name in names)
        return full[0] if isinstance(value, str) else full

    @model_validator(mode="after")
    def _slots_are_filled(self) -> Self:
        if self.slots_per_actor > self.envs_per_actor:
            raise ValueError(
                f"slots_per_actor ({self.slots_per_actor}) must not exceed envs_per_actor ({self.envs_per_actor}): "
                "an actor cannot run more concurrent episodes than it has environments"
            )
        return self


class TelemetryConfig(Section):
    """Telemetry in addition to the event log. Every run writes the event log, for resuming, replay and pictures."""

    level: TelemetryLevel = Field(
        "normal",
        description="off: no metrics, samples or control; normal: samples of decisions; debug: samples of every step",
    )
    wait_every: Period = Field(8, description="normal: a WAIT step is sampled at every so many steps")
    control_episodes: Integer = Field(
        1, ge=0, le=10_000, description="episodes of the first round that are also run without growth, as a control"
    )
