"""Every page of a run that trains: no error, accessible; its driver is killed and started again."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from browser_pages import expect, open_page, violations
from cli_builders import SMALL

pytestmark = [pytest.mark.integration, pytest.mark.nightly, pytest.mark.slow]
ESPER = [sys.executable, "-m", "esper_ray"]
PAGES = ("", "/episodes", "/episodes/0?step=2", "/policy?head=op", "/network?episode=0", "/log", "/sql", "/flight")
ROUNDS = "5000"


def pulse(run):
    try:
        return json.loads((run / "pulse.json").read_text())
    except (OSError, ValueError):
        return {"round": -1}


def wait_for_round(run, index):
    end = time.monotonic() + 120.0
    while pulse(run)["round"] < index:
        assert time.monotonic() < end, pulse(run)
        time.sleep(0.05)


@pytest.fixture
def training(tmp_path):
    """Folder of a run, its driver and the address of its page. Both end with the test."""
    run = tmp_path / "runs" / "live"
    command = [*ESPER, "train", "ppo", "--serial", *SMALL, "--rounds", ROUNDS, "--run-id", "live"]
    command += ["--telemetry-dir", str(run.parent), "--overwatch", "--overwatch-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=tmp_path) as driver:
        wait_for_round(run, 3)
        (server,) = re.findall(r"(http://127\.0\.0\.1:\d+)/", pulse(run)["links"]["page"])
        drivers = [driver]
        yield run, drivers, server
        for process in drivers:
            process.kill()
            process.wait()
    for name in os.listdir("/proc"):
        if name.isdigit() and is_server_of(name, run):
            os.kill(int(name), signal.SIGTERM)


def is_server_of(pid, run):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return False
    return b"overwatch" in words and os.fsencode(run.parent) in words


@pytest.fixture
def page(training, new_page):
    """A page that is closed before its server ends."""
    yield new_page()
    new_page.close()


def test_every_page_of_a_training_run_is_whole_and_accessible(training, page):
    _, _, server = training
    for path in PAGES:
        open_page(page, f"{server}/runs/live{path}")
        expect(page.locator("h1")).to_have_count(1)
        assert violations(page) == [], path
    page.emulate_media(color_scheme="dark")
    for path in PAGES:
        open_page(page, f"{server}/runs/live{path}")
        assert violations(page, {"runOnly": ["color-contrast"]}) == [], path


def test_a_killed_driver_is_gone_within_seconds_and_a_resumed_one_goes_on(training, page):
    run, drivers, server = training
    open_page(page, f"{server}/runs/live")
    alive = page.locator("#answer-alive")
    expect(alive).to_contain_text("ok")
    page.evaluate("window.stays = true")
    drivers[0].kill()
    killed = time.monotonic()
    expect(alive).to_contain_text("GONE, no beat for")
    assert time.monotonic() - killed < 8.0  # five seconds, and what a busy machine adds
    command = [*ESPER, "train", "ppo", "--resume", str(run)]
    drivers.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
    expect(alive).not_to_contain_text("GONE", timeout=180_000)  # the driver starts on a busy machine
    before = pulse(run)["round"]
    wait_for_round(run, before + 2)
    expect(page.locator("#chart-accuracy canvas")).to_have_count(1)
    assert page.evaluate("window.stays") is True
