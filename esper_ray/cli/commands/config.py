"""``esper config``: look at configurations."""

import json
from pathlib import Path
from typing import Annotated

import typer

from esper_ray.cli.options import Preset, Settings, configuration
from esper_ray.leyline.config.loading import preset_names
from esper_ray.leyline.config.run import RunConfig

app = typer.Typer(help="Look at configurations.", no_args_is_help=True)


@app.command()
def show(
    preset: Preset = None,
    config_json: Annotated[Path | None, typer.Option(help="a configuration file instead of a preset")] = None,
    settings: Settings = None,
) -> None:
    """Print the resolved configuration as YAML, with its digest."""
    import yaml

    config = configuration(preset, config_json, {}, settings)
    typer.echo(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), nl=False)
    typer.echo(f"# sha256 {config.digest()}")


@app.command()
def schema() -> None:
    """Print the JSON schema of the configuration: every key, its range and its meaning."""
    typer.echo(json.dumps(RunConfig.model_json_schema(), indent=2))


@app.command()
def presets() -> None:
    """List the presets."""
    for name in preset_names():
        typer.echo(name)
