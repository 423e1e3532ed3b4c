"""What holds on every page: accessibility, small screens, keyboard, colors, the connection, a prefix."""

import re

import pytest
from browser_pages import expect, open_page, violations
from overwatch_answers import filled
from overwatch_data import Site, sections
from overwatch_site import TestServer
from variants import at_night

pytestmark = pytest.mark.integration
PAGES = {
    "places": "/",
    "run": "/runs/digits-s42",
    "episodes": "/runs/digits-s42/episodes?filter=round%3D1",
    "episode": "/runs/digits-s42/episodes/51?step=20",
    "seed": "/runs/digits-s42/episodes/51/seeds/r0c0-1",
    "policy": "/runs/digits-s42/policy",
    "network": "/runs/digits-s42/network?episode=51",
    "network-table": "/runs/digits-s42/network?episode=51&as=table",
    "log": "/runs/digits-s42/log",
    "sql": "/runs/digits-s42/sql?query=SELECT+1",
    "flight": "/runs/digits-s42/flight",
    "recording": "/runs/digits-s42/flight/1",
    "compare": "/compare?run=run-0&run=run-1",
    "comparison": "/comparisons/shaped-vs-sparse",
    "sweep": "/sweeps/modes",
    "evaluation": "/evaluations/final",
    "login": "/login?wrong=1",
    "missing": "/runs",
}
WITHOUT_SCRIPT = ("login", "missing")


def open_named(page, server, name):
    """The page of :data:`PAGES` with a name."""
    address = server.url + PAGES[name]
    if name not in WITHOUT_SCRIPT:
        return open_page(page, address)
    page.allowed += ["404"] if name == "missing" else []
    page.goto(address)
    return page


@pytest.mark.parametrize("name", ["run", *at_night(*(name for name in PAGES if name != "run"))])
def test_a_page_is_accessible_in_both_schemes_and_fits_a_phone(new_page, server, name):
    page = open_named(new_page(), server, name)
    expect(page.locator("h1")).to_have_count(1)
    assert violations(page) == []
    page.emulate_media(color_scheme="dark")
    assert violations(page, {"runOnly": ["color-contrast"]}) == []
    page.set_viewport_size({"width": 390, "height": 844})
    width = page.evaluate("document.documentElement.clientWidth")
    expect(page.locator("html")).to_have_js_property("scrollWidth", width)


def test_the_scheme_follows_the_system_and_can_be_switched(new_page, server):
    page = open_named(new_page("dark"), server, "run")
    paper = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(paper) == "rgb(20, 23, 26)"
    page.get_by_label("Colors").select_option("light")
    assert page.evaluate(paper) == "rgb(255, 255, 255)"
    page.reload()
    expect(page.get_by_label("Colors")).to_have_value("light")
    assert page.evaluate(paper) == "rgb(255, 255, 255)"


@pytest.mark.nightly
def test_the_keyboard_reaches_content_and_reads_a_chart(new_page, server):
    page = open_named(new_page(), server, "run")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.locator("#chart-accuracy .plot").focus()
    page.keyboard.press("Home")
    expect(page.locator("#chart-accuracy [aria-live]")).to_contain_text("round 1: mean")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#chart-accuracy .key .at")).to_have_text("round 2")


def test_a_lost_connection_is_a_bar_and_data_stays_and_goes_on_without_a_reload(new_page):
    site = filled(Site(sections=sections()))
    server = TestServer(site)
    page = new_page()
    page.allowed = ["net::ERR_", "Failed to load resource"]
    open_named(page, server, "run")
    page.evaluate("window.stays = true")
    server.stop()
    expect(page.locator("#lost")).to_contain_text("connection lost")
    expect(page.locator("#lost")).to_contain_text(re.compile(r"It is \d+ s old"))
    expect(page.locator(".matrix tbody tr")).to_have_count(8)
    again = TestServer(site, port=server.port)
    site.change(answers={**site.sections["answers"], "growing": {"level": "ok", "text": "new text", "because": []}})
    page.get_by_role("button", name="Try now").click()
    expect(page.locator("#answer-growing")).to_contain_text("new text")
    expect(page.locator("#lost")).to_have_count(0)
    assert page.evaluate("window.stays") is True
    again.stop()


@pytest.mark.nightly
def test_a_server_of_another_version_asks_for_a_reload(new_page):
    site = filled(Site(sections=sections()))
    server = TestServer(site, version="0.1.0")
    page = new_page()
    page.allowed = ["net::ERR_", "Failed to load resource"]
    open_named(page, server, "run")
    server.stop()
    expect(page.locator("#lost")).to_have_count(1)
    again = TestServer(site, version="0.2.0", port=server.port)
    page.get_by_role("button", name="Try now").click()
    expect(page.locator("#bar")).to_contain_text("The server is version 0.2.0, this page is of version 0.1.0.")
    expect(page.get_by_role("button", name="Reload the page")).to_be_visible()
    again.stop()


def test_the_stream_of_a_hidden_tab_is_closed_and_resumes_from_the_known_version(new_page, server, site):
    page = open_named(new_page(), server, "run")
    site.change(age={"phase": "learning", "moved_age_s": 1.0})
    expect(page.locator(".head")).to_contain_text("learning")
    page.evaluate(
        """() => {
            Object.defineProperty(document, "hidden", { value: true, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }"""
    )
    known = site.version
    expect(page.locator(".head")).to_contain_text("learning")
    site.change(age={"phase": "saving", "moved_age_s": 1.0})
    page.evaluate(
        """() => {
            Object.defineProperty(document, "hidden", { value: false, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }"""
    )
    expect(page.locator(".head")).to_contain_text("saving")
    assert [path for path in server.requests if "/stream" in path][-1].endswith(f"since={known}")


@pytest.mark.nightly
def test_six_tabs_follow_the_same_run(new_page, server, site):
    first = open_named(new_page(), server, "run")
    pages = [first, *(open_named(new_page(context=first.context), server, "run") for _ in range(5))]
    for index, page in enumerate(pages):
        page.bring_to_front()
        site.change(age={"phase": f"phase {index}", "moved_age_s": 1.0})
        expect(page.locator(".head")).to_contain_text(f"phase {index}")


@pytest.mark.nightly
def test_every_address_stays_below_the_prefix(new_page):
    server = TestServer(filled(Site(sections=sections())), root="/deep/prefix")
    page = new_page()
    page.allowed = ["net::ERR_"]  # the server is stopped while the page is open
    page.goto(f"{server.url}/runs/digits-s42")
    expect(page.locator("html[data-ready]")).to_have_count(1)
    page.get_by_role("link", name="Episodes").click()
    expect(page).to_have_url(re.compile(r"/deep/prefix/runs/digits-s42/episodes$"))
    expect(page.locator("html[data-ready]")).to_have_count(1)
    page.goto(f"{server.url}/runs/digits-s42/episodes/51?step=20")
    expect(page.locator("html[data-ready]")).to_have_count(1)
    page.locator("section:has(#slots-h) a").first.click()
    expect(page).to_have_url(re.compile(r"/deep/prefix/runs/digits-s42/episodes/51/seeds/r0c0-1$"))
    expect(page.locator("html[data-ready]")).to_have_count(1)
    assert [path for path in server.requests if not path.startswith("/deep/prefix/")] == []
    server.stop()


@pytest.mark.nightly
def test_ten_thousand_rounds_are_thinned_and_the_page_says_so(new_page, server, site):
    site.sections["rounds"] = sections(10_000)["rounds"]
    page = open_named(new_page(), server, "run")
    expect(page.locator("#chart-accuracy .thin")).to_contain_text("the least and the greatest value are drawn")


@pytest.mark.nightly
def test_the_heap_does_not_grow_with_updates(new_page, server, site):
    page = open_named(new_page(), server, "run")
    session = page.context.new_cdp_session(page)

    def heap_after(count):
        for _ in range(count):
            site.change(age={"phase": "playing", "moved_age_s": float(site.version)}, rounds=site.sections["rounds"])
        site.change(age={"phase": f"seen {site.version}", "moved_age_s": 1.0})
        expect(page.locator(".head")).to_contain_text(f"seen {site.version - 1}")
        session.send("HeapProfiler.collectGarbage")
        return session.send("Runtime.getHeapUsage")["usedSize"]

    before = heap_after(100)
    assert heap_after(300) <= 1.2 * before


@pytest.mark.nightly
def test_a_driver_that_is_gone_is_told_on_every_page_of_the_run(new_page, server, site):
    gone = {"level": "wrong", "text": "GONE, no beat for 7 s, process 1 on box", "because": []}
    site.sections["answers"] = {**site.sections["answers"], "alive": gone}
    page = open_named(new_page(), server, "policy")
    expect(page.locator(".notice")).to_contain_text("GONE, no beat for 7 s")
    expect(page.locator(".notice pre")).to_have_text("esper train ppo --resume runs/digits-s42")


@pytest.mark.nightly
def test_a_list_without_its_server_stays_and_goes_on(new_page):
    site = filled(Site(sections=sections()))
    server = TestServer(site)
    page = new_page()
    page.allowed = ["net::ERR_", "Failed to load resource"]
    open_named(page, server, "places")
    server.stop()
    expect(page.locator("#lost")).to_contain_text("connection lost")
    expect(page.locator("tbody tr")).to_have_count(9)
    again = TestServer(site, port=server.port)
    page.get_by_role("button", name="Try now").click()
    expect(page.locator("#lost")).to_have_count(0)
    again.stop()


@pytest.mark.parametrize(
    ("section", "change", "text"),
    [
        ("facts", {"failure": "its log has version 9, this program reads up to 3"}, "version 9"),
        ("facts", {"telemetry": "off"}, "This run records no events"),
        ("facts", {"reading": True}, "The event log is being read"),
        ("integrity", {"live_is_full": True}, "the file is full"),
        ("integrity", {"notes": ["resumed at round 7: 212 events were dropped"]}, "212 events were dropped"),
    ],
)
def test_what_is_missing_of_a_run_is_a_sentence_above_its_pages(new_page, server, site, section, change, text):
    site.sections[section] = {**site.sections[section], **change}
    page = open_named(new_page(), server, "run")
    expect(page.locator(".notice")).to_contain_text(text)
    expect(page.locator(".answer")).to_have_count(5)
