"""``esper overwatch``: runs in the browser."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)

DEFAULT_FOLDERS = (Path("runs"), Path("sweeps"), Path("evaluations"))


@app.command()
def overwatch(
    places: Annotated[
        list[str] | None,
        typer.Argument(
            help="runs, sweeps, comparisons, evaluations, or folders or storages (s3://...) of them; default: runs, "
            "sweeps, evaluations",
            metavar="PLACE",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="address to listen on; other machines need a token")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="port to listen on; 0: a free one")] = 8080,
    token_file: Annotated[
        Path | None, typer.Option(help="file with the token; default: ESPER_OVERWATCH_TOKEN, or a random one")
    ] = None,
    root_path: Annotated[str, typer.Option(help="prefix of every path, behind a proxy")] = "",
    allowed_host: Annotated[
        list[str] | None, typer.Option(help="further name by which the server is called; may be repeated")
    ] = None,
    sql: Annotated[bool, typer.Option("--sql", help="serve SQL to other machines, too")] = False,
) -> None:
    """Show runs in the browser, while they train or later.

    The runs are only read. On an address that other machines reach a token is needed: that of --token-file or
    ESPER_OVERWATCH_TOKEN, or a random one, which is printed once.

    Example: esper overwatch runs --port 8080
    """
    from esper_ray.karn.overwatch.packages import check_packages

    check_packages()
    from esper_ray.karn.overwatch.server import OverwatchServer, ServerOptions

    options = ServerOptions(
        places=tuple(places or ()),
        host=host,
        port=port,
        token_file=token_file,
        root_path=root_path,
        allowed_hosts=tuple(allowed_host or ()),
        sql=sql,
    )
    server = OverwatchServer(options, DEFAULT_FOLDERS)
    for line in server.lines():
        typer.echo(line)
    server.run()
