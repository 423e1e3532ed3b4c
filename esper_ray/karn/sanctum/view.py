"""What is shown, and what the viewer has chosen: the two arguments of every screen."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from esper_ray.karn.places import FolderKind, RunLine
from esper_ray.karn.recent import Recent
from esper_ray.karn.sanctum.command import CommandState
from esper_ray.karn.sanctum.text import TextLine
from esper_ray.nissa.state.answers import Sight
from esper_ray.nissa.state.episode import EpisodeState
from esper_ray.nissa.state.run_state import RunState

OVERVIEW, POLICY, NETWORKS, EPISODE, SEED, LOG, RUNS = range(1, 8)
SCREENS: Mapping[int, str] = {
    OVERVIEW: "Over",
    POLICY: "Policy",
    NETWORKS: "Nets",
    EPISODE: "Episode",
    SEED: "Seed",
    LOG: "Log",
    RUNS: "Runs",
}
"""Short names of the screens, by digit."""
SORTS = ("number", "accuracy", "growth", "return")
"""Orders of the environments."""
Overlay = Literal["", "help", "facts"]
Prompt = Literal["", "filter", "environment", "leave", "palette"]


@dataclass(frozen=True, slots=True)
class RunView:
    """A run as it is at one moment."""

    name: str = ""
    """Name of the run."""
    path: str = ""
    """Its directory, as it is written in commands."""
    state: RunState = field(default_factory=RunState)
    sight: Sight = field(default_factory=lambda: Sight(None))
    manifest: Mapping[str, Any] = field(default_factory=dict)
    recent: Recent = field(default_factory=Recent)
    problems: tuple[str, ...] = ()
    """Damaged lines and files: the evidence is not whole."""
    notes: tuple[str, ...] = ()
    """What happened to the log while it was followed."""
    choices: Mapping[str, int] = field(default_factory=dict)
    """Greatest number of legal choices, by head; empty if the configuration cannot be read."""
    live_is_full: bool = False
    reading: bool = False
    """Whether the log is being read for the first time."""
    failure: str = ""
    """Why the run cannot be shown."""
    console: tuple[str, ...] = ()
    """Newest lines of its ``console.log`` while it starts or after it has failed."""
    command: CommandState | None = None
    """The command that was started with Sanctum."""
    folder: str = ""
    """Folder of the runs."""
    folder_kind: FolderKind = "folder"
    is_nested: bool = False
    """Whether the folder was opened from another one."""
    runs: tuple[RunLine, ...] = ()
    """The runs in that folder, newest first."""
    connection: str = ""
    """Why the place cannot be read at present; what is shown is older."""

    @property
    def slots(self) -> tuple[str, ...]:
        """Slots of the configuration; without one those that the episodes have had."""
        growth = (self.manifest.get("config") or {}).get("growth") or {}
        names = growth.get("slots")
        if names:
            return tuple(map(str, names))
        return tuple(sorted({name for episode in self.state.environments.values() for name in episode.slots}))

    @property
    def rounds(self) -> int | None:
        """Rounds of the whole run."""
        if self.sight.pulse is not None:
            return int(self.sight.pulse["rounds"])
        rounds = ((self.manifest.get("config") or {}).get("ppo") or {}).get("rounds")
        return rounds if isinstance(rounds, int) else None

    @property
    def is_over(self) -> bool:
        """Whether the run has ended by itself."""
        return self.state.status in ("finished", "interrupted", "failed")


@dataclass(frozen=True, slots=True)
class Controls:
    """What the viewer has chosen."""

    screen: int = OVERVIEW
    back: tuple[int, ...] = ()
    """Screens to go back to."""
    env: int | None = None
    """Chosen environment; ``None``: the first one."""
    sort: str = "number"
    order: tuple[int, ...] = ()
    """Environments in the order that they had when the sorting was chosen: rows never move by themselves."""
    slot: str | None = None
    step: int | None = None
    """Step under the cursor; ``None``: the newest."""
    event: int | None = None
    """Sequence number of the event under the cursor; ``None``: the newest."""
    run: str | None = None
    """Name of the run under the cursor."""
    offsets: Mapping[int, int] = field(default_factory=dict)
    """First shown row, by screen."""
    filter: str = ""
    anomalies_only: bool = False
    held: bool = False
    """Whether what is shown stays as it is."""
    overlay: Overlay = ""
    scroll: int = 0
    """First shown line of the overlay."""
    prompt: Prompt = ""
    typed: str = ""
    """What has been typed at the prompt."""
    choice: int = 0
    """Command of the palette under the cursor."""
    message: str = ""
    """One line for the viewer, until the next key."""

    def shown_env(self, view: RunView) -> int | None:
        """The chosen environment, or the first one."""
        ordered = self.ordered(view)
        return self.env if self.env in ordered else (ordered[0] if ordered else None)

    def ordered(self, view: RunView) -> list[int]:
        """All environments in the chosen order; new ones at the end."""
        present = view.state.environments
        known = [env for env in self.order if env in present]
        return known + sorted(env for env in present if env not in self.order)

    def at(self, screen: int) -> "Controls":
        """Another screen, from which the way leads back."""
        if screen == self.screen:
            return self
        return replace(self, screen=screen, back=(*self.back, self.screen)[-20:], overlay="", scroll=0)


@dataclass(frozen=True, slots=True)
class Body:
    """Lines of a screen, and the first row of its list that they show."""

    lines: tuple[TextLine, ...]
    offset: int = 0


def sort_value(episode: EpisodeState, sort: str) -> float:
    """The number by which an environment is sorted; unmeasured ones come last."""
    if sort == "number":
        return float(episode.env)
    values = {
        "accuracy": episode.val_accuracy_pp,
        "growth": episode.growth_ratio,
        "return": episode.episode_return,
    }
    value = values[sort]
    return float("inf") if value is None else -value
