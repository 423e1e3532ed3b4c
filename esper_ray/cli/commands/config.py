"""``esper config``: configurations, presets and the schema."""

import json

import typer

from esper_ray.cli import options as opt
from esper_ray.leyline.config.documents import dump_yaml
from esper_ray.leyline.config.layers import file_schema
from esper_ray.leyline.config.loading import preset_names

HELP = """Show configurations, presets and the schema.

Example: esper config show --preset digits
"""

app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False)


@app.command(cls=opt.ConfiguredCommand)
@opt.configured()
def show(request: opt.ConfigRequest) -> None:
    """Print the resolved configuration as YAML, with its differences from the preset and its digest.

    Example: esper config show --preset digits --set ppo.lr=1e-3
    """
    layered = request.layered()
    typer.echo(dump_yaml(layered.config.model_dump(mode="json")), nl=False)
    for line in layered.describe():
        typer.echo(f"# {line}")
    typer.echo(f"# sha256 {layered.config.digest()}")


@app.command()
def schema() -> None:
    """Print the JSON schema of a configuration file: every key, its range and its meaning.

    Example: esper config schema
    """
    typer.echo(json.dumps(file_schema(), indent=2))


@app.command()
def presets() -> None:
    """List the presets.

    Example: esper config presets
    """
    for name in preset_names():
        typer.echo(name)
