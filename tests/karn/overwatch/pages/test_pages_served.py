"""The pages of a server as ``esper overwatch`` starts it, over a run that grows."""

import os
import re
import signal
import subprocess
import sys

import pytest
from browser_pages import expect, open_page
from overwatch_builders import add_live_step, live_run

pytestmark = pytest.mark.integration
TOKEN = "correct-horse-battery-staple-42"


def started(folder, *options, port=0, **environment):
    """A process that serves a folder, and its address."""
    command = [sys.executable, "-m", "esper_ray", "overwatch", str(folder), "--port", str(port), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})
    line = process.stdout.readline()
    found = re.search(r"http://[^/]*:(\d+)(\S*)/", line)
    assert found, line
    return process, int(found[1]), f"http://127.0.0.1:{found[1]}{found[2]}"


@pytest.fixture
def start(new_page):
    """Starts servers that end with the test, after its pages."""
    processes = []

    def begun(folder, *options, port=0, **environment):
        process, port, address = started(folder, *options, port=port, **environment)
        processes.append(process)
        return process, port, address

    yield begun
    new_page.close()
    for process in processes:
        ended(process)


def ended(process, number=signal.SIGTERM):
    """Ends a process that a test has started."""
    if process.poll() is None:
        process.send_signal(number)
        process.wait(10)
    process.stdout.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run in its fourth round, to which tests add steps."""
    return live_run(tmp_path_factory.mktemp("served") / "runs")


@pytest.fixture(scope="module")
def address(run):
    """Address of a server over it."""
    process, _, address = started(run.path.parent)
    yield address
    ended(process)


def test_every_page_shows_the_recorded_run_without_an_error(new_page, address):
    page = open_page(new_page(), f"{address}/")
    page.get_by_role("link", name="digits-s42").click()
    expect(page.locator(".answer")).to_have_count(5)
    expect(page.locator("#chart-accuracy canvas")).to_have_count(1)
    for tab, text in {
        "Episodes": "finished",
        "Policy": "Head op",
        "Network": "Layers and slots",
        "Log": "newest first",
        "SQL": "Tables",
        "Flight recorder": "There is no recording.",
    }.items():
        page.get_by_role("link", name=tab, exact=True).click()
        expect(page.locator("main")).to_contain_text(text)


def test_an_episode_leads_to_the_story_of_its_seed(new_page, address):
    page = open_page(new_page(), f"{address}/runs/digits-s42/episodes/17?step=12")
    expect(page.locator("#step-h")).to_have_text("Step 12")
    expect(page.locator("svg.lanes rect.block").first).to_be_visible()
    page.locator("section:has(#slots-h) a").first.click()
    expect(page.locator(".lead")).to_contain_text("germinated in")
    expect(page.locator("#gates-h")).to_be_visible()


def test_a_step_in_play_reaches_the_page(new_page, address, run):
    page = open_page(new_page(), f"{address}/runs/digits-s42")
    expect(page.locator(".matrix tbody tr")).to_have_count(8)
    add_live_step(run, number=9, accuracy=87.6)
    expect(page.locator(".matrix")).to_contain_text("87.6")


def test_a_driver_that_does_not_beat_is_gone(new_page, address):
    page = open_page(new_page(), f"{address}/runs/digits-s42")
    alive = page.locator("#answer-alive")
    expect(alive).to_contain_text("GONE, no beat for")
    expect(alive).to_contain_text("process 4711 on box")
    expect(alive.locator("pre")).to_contain_text("esper train ppo --resume")


def test_a_query_is_answered_and_a_change_is_refused(new_page, address):
    page = new_page()
    page.allowed = ["400"]
    open_page(page, f"{address}/runs/digits-s42/sql")
    page.get_by_label("Query").fill("SELECT count(*) AS episodes FROM outcome")
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("group", name="Result").locator("tbody tr")).to_have_text("24")
    page.get_by_label("Query").fill("DROP VIEW outcome")
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("alert")).to_contain_text("SELECT")


@pytest.mark.nightly
def test_a_killed_server_is_a_bar_and_a_new_one_goes_on_without_a_reload(new_page, tmp_path, start):
    run = live_run(tmp_path / "runs")
    process, port, address = start(run.path.parent)
    page = new_page()
    page.allowed = ["net::ERR_", "Failed to load resource"]
    open_page(page, f"{address}/runs/digits-s42")
    page.evaluate("window.stays = true")
    ended(process, signal.SIGKILL)
    expect(page.locator("#lost")).to_contain_text("connection lost")
    start(run.path.parent, port=port)
    page.get_by_role("button", name="Try now").click()
    expect(page.locator("#lost")).to_have_count(0)
    add_live_step(run, number=9, accuracy=87.6)
    expect(page.locator(".matrix")).to_contain_text("87.6")
    assert page.evaluate("window.stays") is True


def test_a_token_is_asked_for_once_and_is_in_no_address(new_page, run, start):
    options = ("--host", "0.0.0.0", "--allowed-host", "127.0.0.1", "--root-path", "/watch")
    _, _, address = start(run.path.parent, *options, ESPER_OVERWATCH_TOKEN=TOKEN)
    page = new_page()
    page.allowed = ["401", "403"]
    addresses = []
    page.on("request", lambda request: addresses.append(request.url))
    page.goto(f"{address}/runs/digits-s42")
    page.get_by_label("Token").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_contain_text("not the token")
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Log in").click()
    expect(page.locator(".answer")).to_have_count(5)
    assert [text for text in addresses if TOKEN in text] == []
