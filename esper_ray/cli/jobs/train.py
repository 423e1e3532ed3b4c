"""The two jobs behind ``esper train``, from a valid configuration to an exit code."""

import shlex
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from esper_actors.factory import make_workers
from esper_actors.rollout.recorder import Assignment
from esper_actors.rollout.runner import EpisodeRunner, Interrupted, episode_seed
from esper_actors.rollout.snapshots import SnapshotPolicy
from esper_actors.training.checkpoint import Checkpoint, CheckpointError, checkpoints_in, load_checkpoint
from esper_actors.training.controller import Controller
from esper_actors.training.delivering import SinkObserver, close_delivery
from esper_actors.training.observing import observed
from esper_policies.network import parameter_count
from rich.console import Console
from rich.table import Table

from esper_ray.cli.jobs.exporters import exporters
from esper_ray.cli.signals import StopRequest
from esper_ray.environment import MorphogenesisEnv
from esper_ray.karn.console.progress import describe_duration, describe_operations, progress_for
from esper_ray.karn.reports.run_summary import draw_run
from esper_ray.leyline.config.loading import difference
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.errors import UsageError
from esper_ray.leyline.policy import Episode
from esper_ray.nissa.runs.remote_copy import RemoteCopy
from esper_ray.nissa.runs.run_directory import Names, RunDirectory
from esper_ray.nissa.runs.storage import Storage, StorageError, place_within
from esper_ray.nissa.sinks.delivery import DRAIN_SECONDS, Delivery
from esper_ray.nissa.sinks.protocol import RunFacts
from esper_ray.nissa.sinks.registry import SINKS


class PPOJob:
    """Train a policy: start or resume, run, and leave everything in its place."""

    def __init__(
        self,
        config: RunConfig,
        parent: Path,
        *,
        serial: bool,
        previous: RunDirectory | None,
        save: Path | None,
        command: Sequence[str],
        run_id: str | None = None,
        storage: str | None = None,
        label: str = "",
        metrics_port: int | None = None,
        sinks: Sequence[str] = (),
    ) -> None:
        """
        Args:
            parent: folder in which the run directory is made.
            previous: a run to go on with instead.
            save: where to copy the final checkpoint.
            run_id: name of the run directory, if it is not to be made up.
            storage: where to keep a copy of the run; that of ``previous`` if it is not given.
            label: begins every line of progress, where several runs are shown together.
            metrics_port: where to serve metrics for Prometheus while the run goes on; 0 takes a free port.
            sinks: names of other places that get the numbers of rounds.

        Raises:
            UsageError: if ``previous`` has another configuration, or ``save`` cannot be written.
            CheckpointError: if ``previous`` has no usable checkpoint.
        """
        self.config = config
        self.serial = serial
        self.save = save
        self.label = label
        self.metrics_port, self.sinks = metrics_port, sinks
        self.console = Console()
        if save is not None and (save.exists() or not save.absolute().parent.is_dir()):
            raise UsageError(f"--save {save}: it must not exist yet, and its folder must")
        self.checkpoint = None if previous is None else _checkpoint_to_resume(previous, config)
        names = Names(parent.name, label) if label else None  # sides of a comparison are shown together
        self.run_directory = previous or RunDirectory.create(parent, config, command, run_id, names)
        self._fresh = previous is None
        storage = storage or self.run_directory.read_manifest().get("storage")
        self._mirror = None if storage is None else RemoteCopy(Storage(storage), self.run_directory)
        if storage is not None:
            self.run_directory.write_manifest(self.run_directory.read_manifest() | {"storage": storage})

    def run(self) -> int:
        """Exit code: 0 when all rounds are done, 130 or 143 after a signal."""
        with StopRequest() as stop:
            return self.run_until(stop)

    def run_until(self, stop: StopRequest) -> int:
        """As :meth:`run`, in any thread. Signals are listened to by whoever has made ``stop``."""
        if self.checkpoint is not None and self.checkpoint.round_index >= self.config.ppo.rounds:
            self.console.print(
                f"{self.run_directory.path} is finished: {self.config.ppo.rounds} rounds", soft_wrap=True
            )
            self._copy_final_checkpoint()
            return 0
        delivery = self._delivery()
        try:
            run = self.run_directory
            keeping = SnapshotPolicy(self._snapshots(), self.config.system.snapshot_every)
            metrics = None if self.config.telemetry.level == "off" else run.names
            hired = make_workers(self.config, serial=self.serial, keeping=keeping, label=run.run_id, metrics=metrics)
            self.console.print(f"run {run.path}", highlight=False, soft_wrap=True)
            self.console.print(f"{self._headline()}\nplan: {hired.plan()}", highlight=False, soft_wrap=True)
            with hired as crew:
                stop.listen()
                self.console.print(crew.describe(), highlight=False, soft_wrap=True)
                done_before = 0 if self.checkpoint is None else self.checkpoint.round_index
                with (
                    exporters(*run.names, self.metrics_port, crew.exporter, self.console) as exporter,
                    progress_for(self.config, self.console, done_before, self.label) as shown,
                    observed(self.config, run, exporter, shown) as watching,
                ):
                    listener = SinkObserver(delivery, run, watching)
                    controller = Controller(self.config, crew, run, listener, stop, self._mirror, watching)
                    if self.checkpoint is None:
                        controller.start()
                    else:
                        controller.resume(self.checkpoint)
                    _set_status(self.run_directory, "running")
                    done = controller.run()
                digest = controller.weights_digest()
        except BaseException as error:
            self._close(delivery, "failed", 1.0 if isinstance(error, SystemExit) else DRAIN_SECONDS)
            self._abandon()
            raise
        code = self._finish(controller, digest) if done else self._interrupted(controller, stop)
        self._close(delivery, "finished" if done else "interrupted")
        return code

    def _delivery(self) -> Delivery:
        run, done = self.run_directory, 0 if self.checkpoint is None else self.checkpoint.round_index
        facts = RunFacts(*run.names, run.path, self.config.flat(), done)
        return Delivery((SINKS[name]() for name in self.sinks), facts)

    def _close(self, delivery: Delivery, status: str, patience_s: float = DRAIN_SECONDS) -> None:
        """End the sinks; say what they could not do."""
        picture = self.run_directory.picture if status == "finished" else None
        for fault in close_delivery(delivery, self.run_directory, status, picture, patience_s):
            self.console.print(fault.describe(), highlight=False, soft_wrap=True)

    def _snapshots(self) -> str:
        """Where episodes are kept while they are played."""
        if self._mirror is None:
            return str(self.run_directory.snapshots.absolute())
        return place_within(self._mirror.place, "snapshots")

    def _headline(self) -> str:
        config = self.config
        resumed = f", resumed after round {self.checkpoint.round_index}" if self.checkpoint is not None else ""
        return (
            f"{config.name}: task {config.task.name}, {config.ppo.rounds} rounds of {config.system.envs} episodes "
            f"of {config.episode_length} steps, reward {config.reward.mode}, seed {config.seed}{resumed}; "
            f"policy of {parameter_count(config.policy):,} parameters"
        )

    def _finish(self, controller: Controller, digest: str) -> int:
        run = self.run_directory
        run.log([{"kind": "run_finished", "policy_sha256": digest}])
        run.close()
        _set_status(run, "finished", policy_sha256=digest)
        draw_run(run)
        self._copy_final_checkpoint()
        self._push()
        shutil.rmtree(run.snapshots, ignore_errors=True)
        self.console.print(_summary_table(run, controller))
        self.console.print(
            f"policy weights sha256 {digest}\nrun directory {run.path}\npicture {run.picture}",
            highlight=False,
            soft_wrap=True,
        )
        return 0

    def _push(self) -> None:
        """Bring the copy up to date; say so if that cannot be done."""
        if self._mirror is not None:
            try:
                self._mirror.push()
            except StorageError as error:
                self.console.print(f"the copy of the run is not complete: {error}", highlight=False, soft_wrap=True)

    def _copy_final_checkpoint(self) -> None:
        if self.save is not None:
            shutil.copytree(checkpoints_in(self.run_directory.checkpoints)[-1], self.save)

    def _interrupted(self, controller: Controller, stop: StopRequest) -> int:
        run = self.run_directory
        _set_status(run, "interrupted")
        self._push()
        newest = checkpoints_in(run.checkpoints)[-1]
        go_on = f"esper train ppo --resume {shlex.quote(str(run.path))}"
        go_on += " --serial" if self.serial else ""
        go_on += "" if self.save is None else f" --save {shlex.quote(str(self.save))}"
        self.console.print(
            f"stopped after {controller.progress.round_index} of {self.config.ppo.rounds} rounds; saved {newest}\n"
            f"go on with: {go_on}",
            highlight=False,
            soft_wrap=True,
        )
        return stop.exit_code

    def _abandon(self) -> None:
        """After an error: a fresh run that has not saved anything leaves no directory behind."""
        if self._fresh and not checkpoints_in(self.run_directory.checkpoints):
            shutil.rmtree(self.run_directory.path, ignore_errors=True)
        else:
            _set_status(self.run_directory, "failed")


def _set_status(run: RunDirectory, status: str, **more: Any) -> None:
    tree = run.read_manifest() | {"status": status} | more
    tree["updated"] = datetime.now(UTC).isoformat(timespec="seconds")
    run.write_manifest(tree)


def _checkpoint_to_resume(run: RunDirectory, config: RunConfig) -> Checkpoint:
    differences = difference(run.config(), config)
    if differences:
        raise UsageError(f"{run.path} was started with another configuration:\n" + "\n".join(differences))
    found = checkpoints_in(run.checkpoints)
    if not found:
        raise CheckpointError(f"{run.path} holds no complete checkpoint")
    return load_checkpoint(found[-1], config)


def _summary_table(run: RunDirectory, controller: Controller) -> Table:
    rounds = run.rounds()
    table = Table(title="summary", title_justify="left", header_style="bold")
    for name in ("", "first round", "last round"):
        table.add_column(name, justify="left" if not name else "right")
    rows = (
        ("mean return", "return_mean", "{:+.2f}"),
        ("validation accuracy", "val_accuracy_ratio", "{:.1%}"),
        ("committed accuracy", "committed_accuracy_ratio", "{:.1%}"),
        ("growth ratio", "growth_ratio", "{:.2f}x"),
        ("fossilised per episode", "fossilised_mean", "{:.2f}"),
        ("policy entropy (nats)", "entropy", "{:.2f}"),
    )
    for label, key, form in rows:
        table.add_row(label, form.format(float(rounds[0][key])), form.format(float(rounds[-1][key])))
    table.add_row("operations", describe_operations(rounds[0]), describe_operations(rounds[-1]))
    table.add_section()
    progress = controller.progress
    table.add_row("environment steps", "", f"{progress.env_steps} ({progress.env_steps / progress.seconds:.1f}/s)")
    table.add_row("time in rounds", "", describe_duration(progress.seconds))
    best = progress.best
    table.add_row("best episode", "", f"{best['val_accuracy_pp']:.1f} % (episode {best['episode']})")
    best = progress.best_round
    if best:
        kept = f"round {best['round'] + 1}, checkpoint round-{best['checkpoint']:05d}"
        table.add_row("best round", "", f"{best['val_accuracy_ratio']:.1%} ({kept})")
    return table


class HeuristicJob:
    """Play episodes with the hand-written policy."""

    def __init__(
        self,
        config: RunConfig,
        parent: Path,
        episodes: int,
        min_contribution_pp: float | None,
        *,
        command: Sequence[str],
    ) -> None:
        self.config = config
        self.episodes = episodes
        self.min_contribution_pp = min_contribution_pp
        self.console = Console()
        self.run_directory = RunDirectory.create(parent, config, command)

    def run(self) -> int:
        """Exit code: 0 when all episodes are played, 130 or 143 after a signal."""
        import torch
        from esper_policies.heuristic import HeuristicConfig, HeuristicPolicy

        torch.set_num_threads(self.config.system.threads)
        env = MorphogenesisEnv(self.config, self.config.system.devices[0])
        chosen = {} if self.min_contribution_pp is None else {"min_contribution_pp": self.min_contribution_pp}
        runner = EpisodeRunner(env, HeuristicPolicy(env.limits, HeuristicConfig(**chosen)))
        self.console.print(f"run {self.run_directory.path}", highlight=False, soft_wrap=True)
        with StopRequest() as stop:
            try:
                for index in range(self.episodes):
                    seed = episode_seed(self.config.seed, index, 0)
                    episode = runner.play(Assignment(index, 0, seed), stop)
                    test = env.test_measurement()
                    self.run_directory.log(record | {"round": index} for record in episode.log)
                    self._show(episode, test.accuracy_pp)
            except Interrupted:
                if index:
                    draw_run(self.run_directory)
                self.console.print(
                    f"stopped: {index} of {self.episodes} episodes are kept in {self.run_directory.path}\n"
                    f"nothing is learnt from one to the next; --seed {self.config.seed} plays them all again",
                    highlight=False,
                    soft_wrap=True,
                )
                _set_status(self.run_directory, "interrupted")
                return stop.exit_code
            except BaseException:
                _set_status(self.run_directory, "failed")
                raise
        self.run_directory.close()
        draw_run(self.run_directory)
        _set_status(self.run_directory, "finished")
        self.console.print(f"picture {self.run_directory.picture}", highlight=False, soft_wrap=True)
        return 0

    def _show(self, episode: Episode, test_accuracy_pp: float) -> None:
        for record in episode.log:
            if record["kind"] == "env_epoch" and record["operation"] != "WAIT":
                self.console.print(
                    f"  epoch {record['step']:3d}  {record['operation']:<16} {record['slot']}  {record['why']}"
                    f"{'' if record['success'] else '  (the gate stayed shut)'}",
                    highlight=False,
                    soft_wrap=True,
                )
            if record["kind"] == "seed_transition" and record["to"] in ("BLENDING", "HOLDING", "FOSSILIZED"):
                self.console.print(
                    f"  epoch {record['step'] + 1:3d}  -> {record['to']:<13} {record['slot']}  {record['blueprint']}",
                    highlight=False,
                    soft_wrap=True,
                )
        self.console.print(
            f"episode {episode.index}: return {episode.total_reward:+.2f}, validation {episode.val_accuracy_pp:.1f} %, "
            f"test {test_accuracy_pp:.1f} %, {episode.fossilised} fossilised, {episode.growth_ratio:.2f}x parameters",
            highlight=False,
            soft_wrap=True,
        )
