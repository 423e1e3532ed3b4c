"""``esper version``: versions of esper-ray and of the packages that it depends on."""

from typing import Annotated

import typer

import esper_ray

app = typer.Typer(add_completion=False)


@app.command()
def version(
    verbose: Annotated[bool, typer.Option("--verbose", help="also print the versions of dependencies")] = False,
) -> None:
    """Print the version.

    Example: esper version --verbose
    """
    typer.echo(f"esper-ray {esper_ray.__version__}")
    if verbose:
        from esper_ray.nissa.runs.origin import MEASURED_PACKAGES, package_version

        for package in MEASURED_PACKAGES:
            typer.echo(f"{package} {package_version(package)}")
