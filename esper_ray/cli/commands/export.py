"""``esper export-policy``: a trained policy as one file."""

from pathlib import Path
from typing import Annotated

import typer


def export_policy(
    run: Annotated[Path, typer.Argument(help="run directory of a training", metavar="RUN")],
    out: Annotated[Path, typer.Argument(help="file to write, NAME.esper", metavar="OUT")],
    round_index: Annotated[
        int | None,
        typer.Option("--round", min=0, help="checkpoint after so many rounds; the newest if it is left out"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="overwrite OUT if it is there")] = False,
) -> None:
    """Write the policy of a run, its normaliser and what it needs to know into one file.

    It can be played without Ray: `esper evaluate OUT`, or `grow(model, data, policy=OUT)` on a model of your own.
    """
    from esper_actors.evaluation.export import export_policy as exported

    manifest = exported(run, out, round_index=round_index, replace=force)
    came = manifest.provenance
    typer.echo(
        f"{out}: {manifest.parameters:,} parameters, {came.round} rounds on {came.task} with reward {came.reward}, "
        f"grows on {', '.join(topology.value for topology in manifest.topologies)}"
    )
    typer.echo(f"weights {manifest.weights_sha256}")
