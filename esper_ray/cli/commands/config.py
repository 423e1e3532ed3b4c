"""``esper config``: configurations, presets and the schema."""

import json

import typer

from esper_ray.cli import options as opt
from esper_ray.leyline.config.loading import preset_names
from esper_ray.leyline.config.run import RunConfig

HELP = """Show configurations, presets and the schema.

Example: esper config show --preset digits
"""

app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False)


@app.command(cls=opt.ConfiguredCommand)
@opt.configured()
def show(request: opt.ConfigRequest) -> None:
    """Print the resolved configuration as YAML, with its digest.

    Example: esper config show --preset digits --set ppo.lr=1e-3
    """
    import yaml

    config = request.configuration()
    typer.echo(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), nl=False)
    typer.echo(f"# sha256 {config.digest()}")


@app.command()
def schema() -> None:
    """Print the JSON schema of the configuration: every key, its range and its meaning.

    Example: esper config schema
    """
    typer.echo(json.dumps(RunConfig.model_json_schema(), indent=2))


@app.command()
def presets() -> None:
    """List the presets.

    Example: esper config presets
    """
    for name in preset_names():
        typer.echo(name)
