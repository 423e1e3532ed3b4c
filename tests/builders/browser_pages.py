"""Pages of Overwatch in a browser, opened by tests. A module of tests that imports it is skipped without playwright."""

import pytest

expect = pytest.importorskip("playwright.sync_api").expect


def open_page(page, address):
    """The page after it has loaded an address and drawn itself for the first time."""
    page.goto(address)
    expect(page.locator("html[data-ready]")).to_have_count(1)
    return page
