"""Figures of Overwatch's pages in a browser: first paint, size of the first load, delay of a change, long lists."""

import itertools
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.karn.logs import ENVS
from benchmarks.karn.programs import Server, add_live_step, beating, playing
from benchmarks.report import Bar
from esper_ray.leyline.records import Record
from esper_ray.nissa.runs.run_directory import RunDirectory

CHROMIUM = shutil.which("chromium")
REPEATS = 5
CHANGES = 40
"""Changes whose delay is measured."""
UPDATE_SECONDS = 0.25
FEW_RUNS, MANY_RUNS = 50, 500
MEASURED_SECONDS = 10.0
PAGE_BARS = {
    "page, first paint over that of an empty page": Bar(2.0),
    "page, first load, KB": Bar(250.0),
    "page, 95th percentile of the delay over the update interval": Bar(4.0),
    "page of 500 runs over page of 50": Bar(3.0),
}
_PAINT = """() => new Promise((resolve) => {
    const found = () => performance.getEntriesByName("first-contentful-paint")[0];
    if (found()) return resolve(found().startTime);
    new PerformanceObserver(() => found() && resolve(found().startTime)).observe({ type: "paint", buffered: true });
})"""
_LOADED = """() => [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
    .reduce((total, entry) => total + entry.encodedBodySize, 0)"""
_AWAIT = """(text) => {
    const cells = () => [...document.querySelectorAll("table.matrix tbody td b")];
    window.seen = new Promise((resolve) => {
        const look = () => cells().some((cell) => cell.textContent === text) && resolve(Date.now());
        new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true });
        look();
    });
}"""


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@contextmanager
def opened_page(browser: Any, address: str, ready: bool = True) -> Iterator[Any]:
    """A page with an empty cache."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.goto(address)
    if ready:
        page.locator("html[data-ready]").wait_for(state="attached", timeout=120_000)
    yield page
    context.close()


def page_figures(run: RunDirectory, small: RunDirectory, steps: Sequence[Record], folder: Path) -> dict[str, float]:
    """All figures of pages; none without a browser.

    Args:
        run: a run with many events.
        small: one with few events, to which steps in play are added.
        folder: where lists of runs are made.
    """
    if CHROMIUM is None:
        return {}
    with chromium() as browser:
        return {
            **_first_paint(browser, run),
            **_delay(browser, small, steps),
            **_browser_cpu(browser, run, steps),
            **_lists(browser, small, folder),
        }


def _first_paint(browser: Any, run: RunDirectory) -> dict[str, float]:
    paints: dict[str, list[float]] = {"run": [], "empty": []}
    with Server(run.path) as server:
        server.first_state()
        for _ in range(REPEATS):
            with opened_page(browser, f"{server.url}/runs/{run.path.name}") as page:
                paints["run"].append(page.evaluate(_PAINT))
                loaded = page.evaluate(_LOADED)
            with opened_page(browser, f"{server.url}/nothing", ready=False) as page:
                paints["empty"].append(page.evaluate(_PAINT))
    medians = {name: statistics.median(values) for name, values in paints.items()}
    return {
        "page, first paint, ms": medians["run"],
        "page, first paint over that of an empty page": medians["run"] / medians["empty"],
        "page, first load, KB": loaded / 1000.0,
    }


def _delay(browser: Any, run: RunDirectory, steps: Sequence[Record]) -> dict[str, float]:
    """Delay between a line of a step in play and the text of the page."""
    delays = []
    with beating(run.path, 1), Server(run.path) as server:
        server.first_state()
        with opened_page(browser, f"{server.url}/runs/{run.path.name}") as page:
            for number in range(CHANGES):
                accuracy = 90.0 + number / 10.0
                page.evaluate(_AWAIT, f"{accuracy:.1f}")
                time.sleep(0.1 + 0.037 * (number % 7))  # at any moment of the interval
                clock = {"env": number % ENVS, "episode": 10**6 + number, "round": 10**4, "val_accuracy_pp": accuracy}
                written = time.time()
                add_live_step(run.path, {**steps[0], **clock})
                delays.append(page.evaluate("() => window.seen") / 1000.0 - written)
    share = statistics.quantiles(delays, n=20)[-1] / UPDATE_SECONDS
    return {"page, 95th percentile of the delay over the update interval": share}


def _browser_cpu(browser: Any, run: RunDirectory, steps: Sequence[Record]) -> dict[str, float]:
    """CPU of the browser while 64 environments play."""
    with beating(run.path, 1), Server(run.path) as server:
        server.first_state()
        with opened_page(browser, f"{server.url}/runs/{run.path.name}"), playing(run.path, steps, 10**6):
            time.sleep(3.0)
            before = _chromium_seconds()
            time.sleep(MEASURED_SECONDS)
            return {"browser, cores with 64 environments": (_chromium_seconds() - before) / MEASURED_SECONDS}


def _chromium_seconds() -> float:
    """CPU time of the browser's processes, which are descendants of this one."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            if "chrom" in process.name():
                times = process.cpu_times()
                total += times.user + times.system
        except psutil.NoSuchProcess:
            continue
    return total


def _lists(browser: Any, run: RunDirectory, folder: Path) -> dict[str, float]:
    """Time of the page of many runs over that of a few."""
    times: dict[int, list[float]] = {FEW_RUNS: [], MANY_RUNS: []}
    for count in times:
        copies(run, folder / f"runs-{count}", count)
    servers = {count: Server(folder / f"runs-{count}" / "run-0") for count in times}
    try:
        for _, (count, server) in itertools.product(range(REPEATS), servers.items()):
            times[count].append(_seconds(lambda server=server: _listed(browser, server)))
    finally:
        for server in servers.values():
            server.close()
    few, many = (statistics.median(times[count][1:]) for count in (FEW_RUNS, MANY_RUNS))
    return {"page of 500 runs, s": many, "page of 500 runs over page of 50": many / few}


def _listed(browser: Any, server: Server) -> None:
    with opened_page(browser, f"{server.url}/"):
        return


def _seconds(task: Callable[[], object]) -> float:
    began = time.perf_counter()
    task()
    return time.perf_counter() - began


def copies(run: RunDirectory, folder: Path, count: int) -> None:
    """``count`` runs with the files of ``run``, each with a seed of its own."""
    manifest = json.loads((run.path / "manifest.json").read_text())
    for number in range(count):
        path = folder / f"run-{number}"
        shutil.copytree(run.path, path, copy_function=os.link)
        (path / "manifest.json").unlink()
        own = manifest | {"run": path.name, "config": manifest["config"] | {"seed": number}}
        (path / "manifest.json").write_text(json.dumps(own))
