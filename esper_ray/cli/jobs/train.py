"""Training jobs of ``esper train``: PPO and heuristic, from a configuration to an exit code."""

import os
import shlex
import uuid
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from esper_actors.rollout.recorder import Assignment
from esper_actors.rollout.runner import EpisodeRunner, Interrupted, episode_seed
from esper_actors.session import Result, train
from esper_actors.training.checkpoint import checkpoints_in
from esper_actors.training.failures import failure_of
from esper_actors.training.listeners import MetricsObserver, SinkObserver
from esper_actors.training.round_summary import Progress
from esper_actors.training.run_preparation import PreparedRun
from esper_actors.training.stop_request import StopRequest
from esper_policies.network import parameter_count
from esper_ray.cli.jobs.announcement import AnnouncingObserver, announce
from esper_ray.cli.jobs.page import PageServer
from esper_ray.environment import MorphogenesisEnv
from esper_ray.karn.console.lines import ProgressLines
from esper_ray.karn.console.progress import RunHeader, describe_duration, describe_operations, progress_for
from esper_ray.karn.reports.run_summary import PictureObserver, draw_run
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.config.task_mix import described
from esper_ray.leyline.errors import UsageError
from esper_ray.leyline.files.durable import copy_folder
from esper_ray.leyline.policy import Episode
from esper_ray.nissa.runs.observer import RunObserver
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.runs.run_files import RunDirectoryError
from esper_ray.nissa.runs.run_lock import RunLock


class PPOJob:
    """Job that trains a policy by PPO in a new or resumed run."""

    def __init__(
        self,
        run: PreparedRun,
        *,
        save: Path | None = None,
        label: str = "",
        metrics_port: int | None = None,
        sinks: Sequence[str] = (),
        notes: Sequence[str] = (),
        page: PageServer | None = None,
        is_side: bool = False,
    ) -> None:
        """
        Args:
            save: path for a copy of the final checkpoint.
            label: prefix of every line of progress, for several runs on one console.
            metrics_port: port of the Prometheus server during the run; 0: any free port.
            sinks: names of sinks for the figures of each round.
            notes: lines below the headline, such as the differences from the preset.
            page: server of a page about the run, which names it.
            is_side: whether the run is a side of a comparison, which is announced in its stead.

        Raises:
            UsageError: if ``save`` cannot be written, or lies in the directory of the run.
        """
        self.prepared, self.config = run, run.config
        self.save = save
        self.label = label
        self.metrics_port, self.sinks, self.notes = metrics_port, sinks, notes
        self._watchers: list[RunObserver] = [AnnouncingObserver(is_side=is_side)]
        self._watchers += [] if page is None else [page.observer()]
        self.console = Console()
        if save is not None:
            try:
                _check_new_folder(save, run)
            except UsageError:
                run.release()
                raise

    def run(self) -> int:
        """Exit code: 0 when all rounds are done, 1 if the event log is damaged, 129, 130 or 143 after a signal."""
        with StopRequest() as stop:
            return self.run_until(stop)

    def run_until(self, stop: StopRequest) -> int:
        """Exit code as of :meth:`run`, in any thread. The owner of ``stop`` receives the signals."""
        was_finished = self.prepared.is_finished
        result = train(self.config, run=self.prepared, observers=self._observers(), should_stop=stop)
        run = result.run
        if was_finished:
            self._print(f"{run.path} is finished: {self.config.ppo.rounds} rounds")
            self._copy_final_checkpoint(run)
            return 0
        if result.status == "interrupted":
            return self._report_interruption(result, stop)
        self._copy_final_checkpoint(run)
        self.console.print(_summary_table(run, result.progress))
        digest = run.read_manifest()["policy_sha256"]
        self._print(f"policy weights sha256 {digest}\nrun directory {run.path}\npicture {run.picture}")
        problem = run.log_problem()
        if problem is not None:
            self._print(problem)
        return 0 if problem is None else 1

    def _observers(self) -> list[RunObserver]:
        return [
            *self._watchers,
            PictureObserver(),
            SinkObserver(self.sinks),
            RunHeader(self.console, "\n".join([self._headline(), *self.notes])),
            MetricsObserver(self.metrics_port, on_serving=lambda url: self._print(f"metrics {url}")),
            progress_for(self.config, self.console, self.label),
        ]

    def _headline(self) -> str:
        config = self.config
        prepared = self.prepared
        resumed = "" if prepared.checkpoint is None else f", resumed after round {prepared.rounds_done}"
        if prepared.extended_from is not None:
            resumed += (
                f", extended from {prepared.extended_from} rounds (epsilon and entropy bonus keep their last values)"
            )
        return (
            f"{config.name}: {described(config)}, {config.ppo.rounds} rounds of {config.system.envs} episodes "
            f"of {config.episode_length} steps, reward {config.reward.mode}, seed {config.seed}{resumed}; "
            f"policy of {parameter_count(config.policy):,} parameters"
        )

    def _copy_final_checkpoint(self, run: RunDirectory) -> None:
        if self.save is not None:
            copy_folder(checkpoints_in(run.checkpoints)[-1], self.save)

    def _report_interruption(self, result: Result, stop: StopRequest) -> int:
        newest = checkpoints_in(result.run.checkpoints)[-1]
        command = f"esper train ppo --resume {shlex.quote(str(result.run.path))}"
        command += "" if self.save is None else f" --save {shlex.quote(str(self.save))}"
        done = f"{result.progress.round_index} of {self.config.ppo.rounds}"
        self._print(f"stopped after {done} rounds; saved {newest}\nresume with: {command}")
        return stop.exit_code

    def _print(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)


def _check_new_folder(path: Path, run: PreparedRun) -> None:
    """
    Raises:
        UsageError: if a folder ``path`` cannot be made: it or a link exists there, its parent cannot be written, or
            it lies in the run.
    """
    if run.directory is not None and path.resolve().is_relative_to(run.directory.path.resolve()):
        raise UsageError(f"--save {path}: it lies in the run {run.directory.path}; choose a path outside")
    if os.path.lexists(path) or not path.absolute().parent.is_dir():
        raise UsageError(f"--save {path}: it must not exist yet, and its folder must")
    probe = path.absolute().parent / f".probe-{uuid.uuid4().hex}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise UsageError(f"--save {path}: its folder cannot be written: {error.strerror or error}") from error


def _summary_table(run: RunDirectory, progress: Progress) -> Table:
    rounds = run.rounds()
    table = Table(title="summary", title_justify="left", header_style="bold")
    for name in ("", "first round", "last round"):
        table.add_column(name, justify="left" if not name else "right")
    rows = (
        ("mean return", "return_mean", "{:+.2f}"),
        ("validation accuracy", "val_accuracy_ratio", "{:.1%}"),
        ("committed accuracy", "committed_accuracy_ratio", "{:.1%}"),
        ("growth ratio", "growth_ratio", "{:.2f}x"),
        ("fossilized per episode", "fossilised_mean", "{:.2f}"),
        ("policy entropy (nats)", "entropy", "{:.2f}"),
    )
    for label, key, form in rows:
        table.add_row(label, form.format(float(rounds[0][key])), form.format(float(rounds[-1][key])))
    table.add_row("operations", describe_operations(rounds[0]), describe_operations(rounds[-1]))
    table.add_section()
    table.add_row("environment steps", "", f"{progress.env_steps} ({progress.env_steps / progress.seconds:.1f}/s)")
    table.add_row("time in rounds", "", describe_duration(progress.seconds))
    best = progress.best
    table.add_row("best episode", "", f"{best['val_accuracy_pp']:.1f} % (episode {best['episode']})")
    best = progress.best_round
    if best:
        checkpoint = f"round {best['round'] + 1}, checkpoint round-{best['checkpoint']:05d}"
        table.add_row("best round", "", f"{best['val_accuracy_ratio']:.1%} ({checkpoint})")
    return table


class HeuristicJob:
    """Job that plays episodes with the heuristic policy."""

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
        self._done = 0
        """Episodes that are saved."""

    def run(self) -> int:
        """Exit code: 0 when all episodes are played, 129, 130 or 143 after a signal."""
        with RunLock(self.run_directory.path), StopRequest() as stop:
            try:
                announce(self.run_directory.path)
                return self._run(stop)
            except BaseException as error:
                failure = self._failed(error)
                if failure is error:
                    raise
                raise failure from error

    def _run(self, stop: StopRequest) -> int:
        import torch

        from esper_policies.heuristic import HeuristicConfig, HeuristicPolicy

        torch.set_num_threads(self.config.system.threads)
        env = MorphogenesisEnv(self.config, self.config.system.devices[0])
        options = {} if self.min_contribution_pp is None else {"min_contribution_pp": self.min_contribution_pp}
        runner = EpisodeRunner(env, HeuristicPolicy(env.limits, HeuristicConfig(**options)))
        self.console.print(f"run {self.run_directory.path}", highlight=False, soft_wrap=True)
        lines = ProgressLines(
            self.console, lambda: f"episode {self._done}: epoch {env.epoch} of {self.config.episode_length}"
        )
        try:
            with lines:
                self._play(runner, env, stop)
        except Interrupted:
            return self._stopped(stop)
        self.run_directory.close()
        draw_run(self.run_directory)
        self.run_directory.set_status("finished")
        self.console.print(f"picture {self.run_directory.picture}", highlight=False, soft_wrap=True)
        return 0

    def _play(self, runner: EpisodeRunner, env: MorphogenesisEnv, stop: StopRequest) -> None:
        for index in range(self.episodes):
            episode = runner.play(Assignment(index, 0, episode_seed(self.config.seed, index, 0)), stop)
            test = env.test_measurement()
            self.run_directory.log(record | {"round": index} for record in episode.log)
            self._done = index + 1
            self._show(episode, test.accuracy_pp)

    def _stopped(self, stop: StopRequest) -> int:
        """Exit code after a signal."""
        if self._done:
            draw_run(self.run_directory)
        self.console.print(f"stopped: {self._saved()}", highlight=False, soft_wrap=True)
        self.run_directory.set_status("interrupted")
        return stop.exit_code

    def _failed(self, error: BaseException) -> BaseException:
        """The error to raise. The run is marked as failed if it can be written."""
        failure = failure_of(error)
        try:
            self.run_directory.set_status("failed")
        except (OSError, RunDirectoryError) as unwritten:
            failure.add_note(f"the status of the run could not be changed to failed: {unwritten}")
        failure.add_note(self._saved())
        return failure

    def _saved(self) -> str:
        return (
            f"{self._done} of {self.episodes} episodes are saved in {self.run_directory.path}\n"
            f"the episodes are independent; --seed {self.config.seed} repeats all of them"
        )

    def _show(self, episode: Episode, test_accuracy_pp: float) -> None:
        for record in episode.log:
            if record["kind"] == "env_epoch" and record["operation"] != "WAIT":
                self.console.print(
                    f"  epoch {record['step']:3d}  {record['operation']:<16} {record['slot']}  {record['why']}"
                    f"{'' if record['success'] else '  (refused by the gate)'}",
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
            f"test {test_accuracy_pp:.1f} %, {episode.fossilized} fossilized, {episode.growth_ratio:.2f}x parameters",
            highlight=False,
            soft_wrap=True,
        )
