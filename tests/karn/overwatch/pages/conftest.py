"""A browser, and pages that may not err or ask other hosts."""

import shutil
from collections.abc import Callable, Iterator

import pytest
from overwatch_answers import filled
from overwatch_data import Site, sections
from overwatch_site import TestServer

CHROMIUM = shutil.which("chromium")
SLOW_MS = 20_000
"""Longest time that a test waits for a page."""


@pytest.fixture(scope="module")
def chromium():
    """A headless browser. It ends with the module: its event loop would disturb other tests."""
    if CHROMIUM is None:
        pytest.skip("no chromium here: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    playwright.expect.set_options(timeout=SLOW_MS)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture
def new_page(chromium) -> Iterator[Callable]:
    """Pages of a browser. No console error and no request to another host is allowed at the end."""
    contexts, errors, hosts = [], [], set()

    def wrong(page, message):
        errors.append((page, f"{message.text} at {message.location['url']}"))

    def opened(scheme: str = "light", width: int = 1280, height: int = 800, context=None):
        if context is None:
            context = chromium.new_context(color_scheme=scheme, viewport={"width": width, "height": height})
            context.set_default_timeout(SLOW_MS)
            contexts.append(context)
        page = context.new_page()
        page.allowed = []
        page.on("console", lambda message: wrong(page, message) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: errors.append((page, str(error))))
        page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
        return page

    def close():
        for context in contexts:
            context.close()
        contexts.clear()

    opened.close = close
    yield opened
    close()
    found = [text for page, text in errors if not any(part in text for part in page.allowed)]
    assert found == []
    assert {host for host in hosts if not host.startswith("127.0.0.1:")} == set()


@pytest.fixture
def site() -> Site:
    """A run with seven rounds and eight environments, with an answer for every page."""
    return filled(Site(sections=sections()))


@pytest.fixture
def server(site, new_page) -> Iterator[TestServer]:
    """The pages of ``site``. It ends after the browser's pages: without their server they would log errors."""
    server = TestServer(site)
    yield server
    new_page.close()
    server.stop()
