"""Pages of Overwatch in a browser, opened by tests. A module of tests that imports it is skipped without playwright."""

import pytest

expect = pytest.importorskip("playwright.sync_api").expect


def open_page(page, address):
    """The page after it has loaded an address and drawn itself for the first time."""
    page.goto(address)
    expect(page.locator("html[data-ready]")).to_have_count(1)
    return page


def violations(page, options=None):
    """Violations of the rules of axe, with the first elements of each. Without axe the test is skipped."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page, options=options).response["violations"]
    return [
        (rule["id"], node["html"][:160], node.get("failureSummary", "")[:300])
        for rule in found
        for node in rule["nodes"][:3]
    ]
