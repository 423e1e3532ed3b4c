"""Training jobs of ``esper train``: PPO and heuristic, from a configuration to an exit code."""

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from esper_actors.rollout.recorder import Assignment
from esper_actors.rollout.runner import EpisodeRunner, Interrupted, episode_seed
from esper_actors.session import Result, checkpoint_to_resume, train
from esper_actors.training.checkpoint import checkpoints_in
from esper_actors.training.listeners import MetricsObserver, SinkObserver
from esper_actors.training.round_summary import Progress
from esper_actors.training.stop_request import StopRequest
from esper_policies.network import parameter_count
from esper_ray.environment import MorphogenesisEnv
from esper_ray.karn.console.lines import ProgressLines
from esper_ray.karn.console.progress import RunHeader, describe_duration, describe_operations, progress_for
from esper_ray.karn.reports.run_summary import PictureObserver, draw_run
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.errors import UsageError
from esper_ray.leyline.policy import Episode
from esper_ray.nissa.runs.observer import RunObserver
from esper_ray.nissa.runs.run_directory import Names, RunDirectory


class PPOJob:
    """Job that trains a policy by PPO in a new or resumed run."""

    def __init__(
        self,
        config: RunConfig,
        parent: Path,
        *,
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
            parent: folder of the new run directory.
            previous: run to resume, instead of a new one.
            save: path for a copy of the final checkpoint.
            run_id: name of the run directory; default: a generated name.
            storage: place for a copy of the run; default: that of ``previous``.
            label: prefix of every line of progress, for several runs on one console.
            metrics_port: port of the Prometheus server during the run; 0: any free port.
            sinks: names of sinks for the figures of each round.

        Raises:
            UsageError: if ``previous`` has another configuration, or ``save`` cannot be written.
            CheckpointError: if ``previous`` has no usable checkpoint.
        """
        self.config = config
        self.save = save
        self.label = label
        self.metrics_port, self.sinks = metrics_port, sinks
        self.console = Console()
        if save is not None and (save.exists() or not save.absolute().parent.is_dir()):
            raise UsageError(f"--save {save}: it must not exist yet, and its folder must")
        self.checkpoint = None if previous is None else checkpoint_to_resume(previous, config)
        names = Names(parent.name, label) if label else None  # both sides of a comparison share its name
        self.run_directory = previous or RunDirectory.create(parent, self.config, command, run_id, names)
        self.storage = storage

    def run(self) -> int:
        """Exit code: 0 when all rounds are done, 130 or 143 after a signal."""
        with StopRequest() as stop:
            return self.run_until(stop)

    def run_until(self, stop: StopRequest) -> int:
        """Exit code as of :meth:`run`, in any thread. The owner of ``stop`` receives the signals."""
        if self.checkpoint is not None and self.run_directory.read_manifest()["status"] == "finished":
            self._print(f"{self.run_directory.path} is finished: {self.config.ppo.rounds} rounds")
            self._copy_final_checkpoint()
            return 0
        result = train(
            self.config,
            run=self.run_directory,
            observers=self._observers(),
            storage=self.storage,
            should_stop=stop,
        )
        if result.status == "interrupted":
            return self._report_interruption(result, stop)
        self._copy_final_checkpoint()
        self.console.print(_summary_table(self.run_directory, result.progress))
        digest = self.run_directory.read_manifest()["policy_sha256"]
        run = self.run_directory
        self._print(f"policy weights sha256 {digest}\nrun directory {run.path}\npicture {run.picture}")
        return 0

    def _observers(self) -> list[RunObserver]:
        return [
            PictureObserver(),
            SinkObserver(self.sinks),
            RunHeader(self.console, self._headline()),
            MetricsObserver(self.metrics_port, on_serving=lambda url: self._print(f"metrics {url}")),
            progress_for(self.config, self.console, self.label),
        ]

    def _headline(self) -> str:
        config = self.config
        resumed = f", resumed after round {self.checkpoint.round_index}" if self.checkpoint is not None else ""
        return (
            f"{config.name}: task {config.task.name}, {config.ppo.rounds} rounds of {config.system.envs} episodes "
            f"of {config.episode_length} steps, reward {config.reward.mode}, seed {config.seed}{resumed}; "
            f"policy of {parameter_count(config.policy):,} parameters"
        )

    def _copy_final_checkpoint(self) -> None:
        if self.save is not None:
            shutil.copytree(checkpoints_in(self.run_directory.checkpoints)[-1], self.save)

    def _report_interruption(self, result: Result, stop: StopRequest) -> int:
        newest = checkpoints_in(result.run.checkpoints)[-1]
        command = f"esper train ppo --resume {shlex.quote(str(result.run.path))}"
        command += "" if self.save is None else f" --save {shlex.quote(str(self.save))}"
        done = f"{result.progress.round_index} of {self.config.ppo.rounds}"
        self._print(f"stopped after {done} rounds; saved {newest}\nresume with: {command}")
        return stop.exit_code

    def _print(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)


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

    def run(self) -> int:
        """Exit code: 0 when all episodes are played, 130 or 143 after a signal."""
        import torch

        from esper_policies.heuristic import HeuristicConfig, HeuristicPolicy

        torch.set_num_threads(self.config.system.threads)
        env = MorphogenesisEnv(self.config, self.config.system.devices[0])
        options = {} if self.min_contribution_pp is None else {"min_contribution_pp": self.min_contribution_pp}
        runner = EpisodeRunner(env, HeuristicPolicy(env.limits, HeuristicConfig(**options)))
        self.console.print(f"run {self.run_directory.path}", highlight=False, soft_wrap=True)
        index = 0
        lines = ProgressLines(
            self.console, lambda: f"episode {index}: epoch {env.epoch} of {self.config.episode_length}"
        )
        with StopRequest() as stop, lines:
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
                    f"stopped: {index} of {self.episodes} episodes are saved in {self.run_directory.path}\n"
                    f"the episodes are independent; --seed {self.config.seed} repeats all of them",
                    highlight=False,
                    soft_wrap=True,
                )
                self.run_directory.set_status("interrupted")
                return stop.exit_code
            except BaseException:
                self.run_directory.set_status("failed")
                raise
        self.run_directory.close()
        draw_run(self.run_directory)
        self.run_directory.set_status("finished")
        self.console.print(f"picture {self.run_directory.picture}", highlight=False, soft_wrap=True)
        return 0

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
            f"test {test_accuracy_pp:.1f} %, {episode.fossilised} fossilized, {episode.growth_ratio:.2f}x parameters",
            highlight=False,
            soft_wrap=True,
        )
