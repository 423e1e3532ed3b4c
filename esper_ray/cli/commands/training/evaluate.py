"""``esper evaluate``: a comparison of policies on paired seeds."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from esper_ray.cli import options as opt
from esper_ray.leyline.errors import UsageError, shortened
from esper_ray.leyline.files.paths import unused_paths
from esper_ray.leyline.plugins.origins import check_origins

if TYPE_CHECKING:
    from esper_actors.evaluation.candidates import Candidate
    from esper_ray.leyline.config.run import RunConfig

EVALUATIONS = Path("evaluations")
MOST_LIVES = 1_000_000
"""Most episodes of a search for a script."""
BEST_SCRIPT = "schedule:best"
"""Name of the best script of a search."""
MAX_SEEDS = 100_000


app = typer.Typer(add_completion=False)


@app.command(cls=opt.ConfiguredCommand)
@opt.configured("task", "host", "data_dir", "episode_length", "devices", "serial")
def evaluate(
    request: opt.ConfigRequest,
    policies: Annotated[
        list[str],
        typer.Argument(
            metavar="POLICY...",
            help="name, schedule:FILE, run directory, checkpoint, bundle or control; LABEL=POLICY sets another label",
        ),
    ],
    seeds: Annotated[str, typer.Option(help="number of seeds (0, 1, ...), or a range such as 100-119")] = "20",
    control: Annotated[str, typer.Option(help="policy with which the others are compared, seed by seed")] = "static",
    controls: Annotated[
        bool,
        typer.Option(help="also evaluate static, random, heuristic, wide-host, from-scratch and from-scratch-flops"),
    ] = True,
    script_lives: Annotated[int, typer.Option(help="episodes of the search for schedule:best, from 32 on")] = 64,
    sample: Annotated[bool, typer.Option("--sample", help="sample actions; default is greedy")] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="actors; default: one per CPU", rich_help_panel=opt.MACHINE)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="new folder for table and picture; default: evaluations/<time>-<preset>")
    ] = None,
) -> None:
    """Evaluate policies on paired seeds and compare them.

    The environment is that of --preset, --config or --task; otherwise that in which the first learned policy was
    trained. Policies do not explore. Test accuracy is measured here only: nothing is trained on it.

    Policies by name: heuristic, random, static, schedule, oracle, and tamiyo, which ships; best-of-4, the best of four
    growths by the heuristic; schedule:best, the best script of a search on seeds from 1000 on.

    Controls follow the first policy, seed by seed: wide-host (the host alone, with as many parameters), from-scratch
    (its final topology, for as many epochs), from-scratch-flops (with as many operations), and searches over topologies
    trained from scratch: random-search-2x and asha-2x spend twice the operations of its growth.

    Example: esper evaluate heuristic runs/my-run --preset digits --seeds 10 --serial
    """
    evaluation_seeds = seed_list(seeds)
    config = request.configuration() if request.has_source or "task.name" in request.flags else None

    from esper_actors.evaluation.candidates import FOUND_SCRIPT, load_candidate, unsteered_controls
    from esper_actors.evaluation.evaluator import unique_labels
    from esper_ray.cli.jobs.evaluate import EvaluationJob, check_candidates

    _check_lives(script_lives)
    named_controls, played = split_controls(policies)
    lives = script_lives if BEST_SCRIPT in policies else None
    more = [name for name in ("static", "random", "heuristic") if controls and name not in played]
    loaded = [load_candidate(name) for name in (*played, *more)]
    config = config or _configuration_of_training(request, loaded)
    _check_run(config, workers)
    candidates = unique_labels([candidate for candidate, _ in loaded])
    unsteered = tuple(dict.fromkeys((*(unsteered_controls(config.host) if controls else ()), *named_controls)))
    labels = [*(candidate.label for candidate in candidates), *([FOUND_SCRIPT] if lives else []), *unsteered]
    _check_control(control, labels)
    check_candidates(config, candidates)
    folder = out or next(unused_paths(EVALUATIONS, f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{config.name}"))
    parts = (config, candidates, unsteered, control, evaluation_seeds, folder)
    raise SystemExit(EvaluationJob(*parts, sample=sample, script_lives=lives).run(workers))


def _check_lives(lives: int) -> None:
    if not 32 <= lives <= MOST_LIVES:
        raise UsageError(f"--script-lives must lie in [32, {MOST_LIVES:,}], got {lives:,}")


def _check_run(config: "RunConfig", workers: int | None) -> None:
    """Check devices and data before anything is written."""
    from esper_ray.tolaria.run_checks import check_devices, check_run

    if workers is not None and config.system.workers == "local":
        raise UsageError(f"--workers {workers}: with --serial there are no actors; leave one of them out")
    check_devices(config, on_cluster=False)
    opt.echo_loading(config)
    opt.echo_notes(check_run(config))


def _check_control(control: str, labels: Sequence[str]) -> None:
    if control not in labels:
        raise UsageError(f"--control {control}: only what is evaluated can be the control: {', '.join(labels)}")


def split_controls(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The controls among ``names``, and the policies that are played as they are.

    Raises:
        UsageError: if there are no such policies.
    """
    from esper_actors.evaluation.candidates import UNSTEERED
    from esper_actors.evaluation.scratch import Search

    controls = [name for name in names if name in UNSTEERED or Search.parse(name) is not None]
    played = [name for name in names if name not in controls and name != BEST_SCRIPT]
    if not played:
        raise UsageError(f"{', '.join(names)}: controls need a policy that they follow; name one first")
    return controls, played


def _configuration_of_training(
    request: opt.ConfigRequest, loaded: "Sequence[tuple[Candidate, RunConfig | None]]"
) -> "RunConfig":
    """The configuration in which the first learned policy was trained, or the default one.

    Raises:
        PluginError: if a package of a part of it is not installed.
    """
    from esper_ray.nissa.runs.run_directory import RunDirectory

    trained = next(((candidate, base) for candidate, base in loaded if base is not None), None)
    if trained is None:
        return request.configuration(None)
    if trained[1] is not None and trained[1].task_mix:
        raise UsageError(
            f"{trained[0].label} was trained on a mix of {', '.join(trained[1].task_mix)}; choose one with --preset"
        )
    if trained[0].run is not None:
        check_origins(str(trained[0].run), RunDirectory.open(trained[0].run).read_manifest())
    return request.configuration(trained[1])


def seed_list(text: str) -> Sequence[int]:
    """The seeds of ``text``: a number of them, or the first and the last.

    Raises:
        UsageError: if it is neither, or there are fewer than two or more than ``MAX_SEEDS``.
    """
    match = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", text.strip())
    if match is None:
        raise UsageError(f"--seeds takes a number or a range such as 100-119, got {shortened(text)}")
    first, last = match.groups()
    if max(len(first), len(last or "")) > len(str(2**32)):
        raise UsageError(f"--seeds {shortened(text)}: seeds must be below {2**32}")
    begin, end = (0, int(first)) if last is None else (int(first), int(last) + 1)
    if end > 2**32:
        raise UsageError(f"--seeds {text}: seeds must be below {2**32}")
    if end - begin < 2:
        raise UsageError(f"--seeds {text}: an interval needs at least two seeds, got {max(0, end - begin)}")
    if end - begin > MAX_SEEDS:
        raise UsageError(f"--seeds {text}: {end - begin:,} seeds exceed {MAX_SEEDS:,}")
    return range(begin, end)
