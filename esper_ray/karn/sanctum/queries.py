"""The SQL of what a screen shows, for ``esper sql`` and the page."""

from collections.abc import Callable, Mapping

from esper_ray.karn.sanctum.screens import episode, events_log, seed
from esper_ray.karn.sanctum.view import EPISODE, LOG, NETWORKS, OVERVIEW, POLICY, SEED, Controls, RunView

_ROUNDS = "SELECT round, val_accuracy_ratio, return_mean, growth_ratio, rollbacks FROM round ORDER BY round"
_UPDATES = "SELECT round, kl, clip_share, entropy, explained_variance, grad_norm FROM ppo_update ORDER BY round"


def shown_query(view: RunView, controls: Controls) -> str | None:
    """The query; ``None`` if the screen shows nothing of a log."""
    query = _QUERIES.get(controls.screen)
    return None if query is None or not view.name else query(view, controls)


def _network(view: RunView, controls: Controls) -> str | None:
    number = _episode_number(view, controls)
    if number is None:
        return None
    columns = "step, name, stage, blueprint, alpha, contribution_pp, parameters"
    return f"SELECT {columns} FROM env_epoch_slots WHERE episode = {number} ORDER BY step, name"


def _steps(view: RunView, controls: Controls) -> str | None:
    """The rewards of the chosen step; without one all steps."""
    number = _episode_number(view, controls)
    if number is None:
        return None
    if controls.step is None:
        columns = "step, operation, slot, success, reward, val_accuracy_pp"
        return f"SELECT {columns} FROM env_epoch WHERE episode = {number} ORDER BY step"
    columns = "source, slot, amount, cause_step, why"
    return f"SELECT {columns} FROM env_epoch_entries WHERE episode = {number} AND step = {controls.step}"


def _transitions(view: RunView, controls: Controls) -> str | None:
    number, slot = _episode_number(view, controls), seed.shown_slot(view, controls)
    if number is None or slot is None:
        return None
    columns = 'step, seed, "from", "to", reason, initiator, blueprint'
    name = slot.replace("'", "''")
    return f"SELECT {columns} FROM seed_transition WHERE episode = {number} AND slot = '{name}' ORDER BY seq"


def _event(view: RunView, controls: Controls) -> str | None:
    events = events_log.filtered(view, controls)
    if not events:
        return None
    record = events[events_log.cursor_of(events, controls)]
    return f"SELECT * FROM {record['kind']} WHERE seq = {record['seq']}"


def _episode_number(view: RunView, controls: Controls) -> int | None:
    """The episode that is shown of the chosen environment."""
    env = controls.shown_env(view)
    steps = [] if env is None else episode.steps_of(view.recent.episode(env))
    if steps:
        return int(steps[-1].record["episode"])
    return None if env is None else view.state.environments[env].episode


_QUERIES: Mapping[int, Callable[[RunView, Controls], str | None]] = {
    OVERVIEW: lambda view, controls: _ROUNDS,
    POLICY: lambda view, controls: _UPDATES,
    NETWORKS: _network,
    EPISODE: _steps,
    SEED: _transitions,
    LOG: _event,
}
