"""The page beside a run: its server, address, port and end."""

import os
import socket
import sys
from io import StringIO

import pytest
from rich.console import Console

from esper_ray.cli.jobs.page import (
    NICENESS,
    PORT,
    PageServer,
    PageServerError,
    free_port_of_page,
    run_beside,
    tunnel_command,
)
from esper_ray.leyline.errors import UsageError

SERVER = "import http.server, sys\nhttp.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), None).serve_forever()"
SSH = {"SSH_CONNECTION": "10.0.0.9 51234 10.0.0.5 22"}


def served(folder, program=SERVER, **settings):
    port = free_port_of_page(0)
    command = [sys.executable, "-c", program, str(port)]
    return PageServer(folder, port, command=command, console=Console(file=StringIO(), width=200), **settings)


def printed(server):
    return server._console.file.getvalue()


def test_the_page_is_served_with_lower_priority_while_the_run_lasts(tmp_path):
    server = served(tmp_path / "runs")

    def run():
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", server.port)) == 0
        assert os.getpriority(os.PRIO_PROCESS, server._process.pid) == min(19, os.nice(0) + NICENESS)
        return 7

    assert run_beside(server, run) == 7
    assert server._process.poll() is not None
    assert (tmp_path / "runs").is_dir()
    assert f"page http://127.0.0.1:{server.port}/" in printed(server)


def test_the_server_ends_when_the_run_fails(tmp_path):
    server = served(tmp_path)
    with pytest.raises(ZeroDivisionError):
        run_beside(server, lambda: 1 // 0)
    assert server._process.poll() is not None


def test_a_kept_page_is_served_until_the_server_or_a_signal_ends_it(tmp_path):
    server = served(tmp_path, keep=True)

    def run():
        server._process.kill()
        server._process.wait()
        return 0

    assert run_beside(server, run) == 0
    assert "the page stays" not in printed(server)
    with served(tmp_path, keep=True) as server:
        server._console.print = lambda *_, **__: server._process.kill()  # as if it ended while it is kept
        assert server.stay(3) == 3


def test_an_interrupted_run_ends_a_kept_page(tmp_path):
    server = served(tmp_path, keep=True)
    assert run_beside(server, lambda: 130) == 130
    assert "the page stays" not in printed(server)


def test_a_server_that_does_not_start_refuses_the_run_with_its_last_line(tmp_path):
    server = served(tmp_path, "import sys; sys.exit('esper: error: no such folder\\n╰────╯')")
    with pytest.raises(PageServerError, match="the page did not start: no such folder"):
        run_beside(server, lambda: pytest.fail("the run was started"))


def test_a_taken_port_is_refused_with_the_option_that_helps():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PageServerError, match=f"port {port} of 127.0.0.1 is not free.*--overwatch-port 0"):
            free_port_of_page(port)
    assert free_port_of_page(0) not in (0, PORT)


def test_the_tunnel_is_named_where_the_machine_is_used_from_afar(monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "me")
    monkeypatch.setattr("socket.getfqdn", lambda: "node7")
    assert tunnel_command(8080, {}) is None
    assert tunnel_command(8080, SSH) == "ssh -L 8080:127.0.0.1:8080 me@10.0.0.5"
    assert tunnel_command(8080, {"RAY_ADDRESS": "auto"}) == "ssh -L 8080:127.0.0.1:8080 me@node7"


@pytest.mark.parametrize(("options", "named"), [((None, True), "--keep"), ((9000, False), "--overwatch-port 9000")])
def test_options_of_the_page_belong_to_it(options, named):
    from esper_ray.cli.commands.training.watching import page_port

    with pytest.raises(UsageError, match=f"{named} belongs to --overwatch"):
        page_port(False, *options)
    assert page_port(False, None, False) is None
