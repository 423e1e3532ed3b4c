"""``esper export-policy``: a trained policy as one file."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def export_policy(
    run: Annotated[Path, typer.Argument(help="run directory of a trained policy", metavar="RUN")],
    out: Annotated[Path, typer.Argument(help="file to write, NAME.esper", metavar="OUT")],
    round_index: Annotated[
        int | None,
        typer.Option("--round", min=0, help="round of the checkpoint to export; default: the newest"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="overwrite OUT if it exists")] = False,
) -> None:
    """Export the policy of a run as one file.

    The file holds weights, normalizer and manifest. It needs no Ray: `esper evaluate OUT`, or
    `grow(model, data, policy=OUT)` on a model of your own.

    Example: esper export-policy runs/my-run policy.esper
    """
    from esper_actors.evaluation.export import export_policy as exported

    manifest = exported(run, out, round_index=round_index, replace=force)
    came = manifest.provenance
    typer.echo(
        f"{out}: {manifest.parameters:,} parameters, {came.round} rounds on {came.task} with reward {came.reward}, "
        f"grows on {', '.join(topology.value for topology in manifest.topologies)}"
    )
    typer.echo(f"weights {manifest.weights_sha256}")
