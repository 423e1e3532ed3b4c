"""The list of runs and the overview of a run, in a browser."""

import random
import re

import pytest
from browser_pages import expect, open_page
from overwatch_data import answers, environment, places, sections

pytestmark = pytest.mark.integration


def test_the_list_shows_runs_with_gain_and_settings_that_differ(new_page, server):
    page = open_page(new_page(), server.url + "/")
    row = page.get_by_role("row", name=re.compile("digits-s42"))
    expect(row).to_contain_text("+21.1 pp [+18.9, +23.4]")
    expect(row).to_contain_text("ppo.lr 0.0003")
    expect(row).to_contain_text("30 Nov 2026")
    expect(page.locator("main")).to_contain_text("6 runs, 1 comparison, 1 sweep, 1 evaluation")


def test_a_filter_and_a_sort_are_in_the_address_and_come_back_from_it(new_page, server):
    page = open_page(new_page(), server.url + "/")
    page.get_by_label("Filter").fill("s44")
    page.get_by_role("button", name="growth").click()
    expect(page).to_have_url(re.compile(r"filter=s44&sort=growth&descending=1"))
    expect(page.locator("tbody tr")).to_have_count(1)
    page.reload()
    expect(page.get_by_label("Filter")).to_have_value("s44")
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator("[aria-sort=descending]")).to_have_text("growth ↓")


def test_runs_are_grouped_by_a_setting(new_page, server):
    page = open_page(new_page(), server.url + "/?kind=run")
    page.get_by_label("Group by").select_option("ppo.lr")
    expect(page.locator("tbody")).to_have_count(2)
    expect(page.locator("tbody").first).to_contain_text("ppo.lr 0.0003 3 places")


def test_chosen_runs_are_in_the_address_and_lead_to_their_comparison(new_page, server):
    page = open_page(new_page(), server.url + "/")
    compare = page.get_by_role("button", name="Compare")
    expect(compare).to_be_disabled()
    page.get_by_label("choose digits-s42").check()
    page.get_by_label("choose digits-s44").check()
    expect(page).to_have_url(re.compile(r"run=digits-s42&run=digits-s44"))
    expect(compare).to_be_enabled()


def test_no_more_than_ten_runs_can_be_chosen(new_page, server, site):
    site.answers["places"] = places(12)
    query = "&".join(f"run=digits-s{42 + index}" for index in range(10))
    page = open_page(new_page(), f"{server.url}/?{query}")
    expect(page.get_by_label("choose digits-s52")).to_be_disabled()
    expect(page.get_by_label("choose digits-s42")).to_be_enabled()


def test_an_empty_folder_says_what_to_do(new_page, server, site):
    site.answers["places"] = {"places": [], "problems": ["the folder /data cannot be read"]}
    page = open_page(new_page(), server.url + "/")
    expect(page.locator(".empty")).to_contain_text("esper train ppo --preset digits --overwatch")
    expect(page.locator(".notice")).to_contain_text("the folder /data cannot be read")


def test_the_overview_shows_five_answers_with_level_and_reason(new_page, server):
    page = open_page(new_page(), server.url + "/runs/digits-s42")
    expect(page.locator(".answer")).to_have_count(5)
    expect(page.locator("#answer-safe")).to_contain_text("! look")
    expect(page.locator("#answer-safe")).to_contain_text("since round 5")
    expect(page.locator("#answer-explained")).to_contain_text("not recorded by this version")
    expect(page.locator("#answer-learning")).to_contain_text("+21.1 pp [+18.9, +23.4]")


def test_the_overview_shows_curves_environments_and_differences_from_the_preset(new_page, server, site):
    page = open_page(new_page(), server.url + "/runs/digits-s42")
    expect(page.locator("#chart-accuracy canvas")).to_have_count(1)
    expect(page.locator("#chart-accuracy .key")).to_contain_text("without growth 28.0 % (n = 8)")
    expect(page.locator(".matrix tbody tr")).to_have_count(8)
    accuracy = site.sections["environments"]["3"]["val_accuracy_pp"]
    expect(page.locator(".matrix tbody tr").nth(3)).to_contain_text(f"{accuracy:.1f}")
    expect(page.get_by_role("row", name="ppo.lr 0.001 0.0003")).to_be_visible()


def test_an_update_of_the_stream_changes_the_page_without_a_reload(new_page, server, site):
    page = open_page(new_page(), server.url + "/runs/digits-s42")
    changed = {**environment(3, random.Random(9)), "val_accuracy_pp": 77.7}
    site.change(environments={"3": changed})
    expect(page.locator(".matrix tbody tr").nth(3)).to_contain_text("77.7")
    expect(page.locator(".matrix tbody tr")).to_have_count(8)


@pytest.mark.nightly
def test_zoom_scroll_focus_and_order_survive_fifty_updates(new_page, server, site):
    page = open_page(new_page(), server.url + "/runs/digits-s42?zoom=2-5&sort=accuracy&descending=1")
    before = page.locator(".matrix tbody th").all_text_contents()
    page.locator(".matrix tbody a").nth(4).focus()
    page.evaluate("scrollTo(0, 500)")
    focused = "document.activeElement.getAttribute('aria-label')"
    label, top = page.evaluate(focused), page.evaluate("scrollY")
    generator = random.Random(3)
    for step in range(50):
        env = {**environment(step % 8, generator), "val_accuracy_pp": 10.0 + step / 10}
        site.change(environments={str(step % 8): env}, answers=answers(), rounds=sections(8, 1, step)["rounds"])
        expect(page.locator(".matrix")).to_contain_text(f"{10.0 + step / 10:.1f}")
    assert page.locator(".matrix tbody th").all_text_contents() == before
    assert page.evaluate(focused) == label
    assert page.evaluate("scrollY") == top
    expect(page).to_have_url(re.compile("zoom=2-5"))
    expect(page.get_by_label("Rounds from")).to_have_value("2")


@pytest.mark.nightly
def test_a_drag_over_a_chart_zooms_all_charts_and_a_double_click_ends_it(new_page, server):
    page = open_page(new_page(), server.url + "/runs/digits-s42")
    box = page.locator("#chart-accuracy .u-over").bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 60, steps=4)
    page.mouse.up()
    expect(page).to_have_url(re.compile(r"zoom=3-5"))
    expect(page.get_by_label("to", exact=True)).to_have_value("5")
    page.locator("#chart-return .u-over").dblclick()
    expect(page).not_to_have_url(re.compile("zoom"))


@pytest.mark.nightly
def test_charts_out_of_sight_are_not_drawn(new_page, server):
    page = open_page(new_page(height=500), server.url + "/runs/digits-s42")
    expect(page.locator("#chart-accuracy canvas")).to_have_count(1)
    expect(page.locator("#chart-entropy canvas")).to_have_count(0)
    page.locator("#chart-entropy").scroll_into_view_if_needed()
    expect(page.locator("#chart-entropy canvas")).to_have_count(1)


def test_a_run_without_a_finished_round_says_so(new_page, server, site):
    empty = sections(0, 0)
    site.sections = {**empty, "notable": [], "blueprints": [], "reward": {}, "gates": {}, "anomalies": [], "faults": []}
    page = open_page(new_page(), server.url + "/runs/digits-s42")
    expect(page.locator("main")).to_contain_text("No round is over yet.")
    expect(page.locator("main")).to_contain_text("No episode has started yet.")


def test_damaged_evidence_is_a_bar_and_the_page_goes_on(new_page, server, site):
    problem = "events/part-3.parquet: line 7 is no JSON"
    site.sections["integrity"] = {"whole": False, "problems": [problem], "notes": ["resumed at round 7"]}
    page = open_page(new_page(), server.url + "/runs/digits-s42")
    expect(page.get_by_text("evidence is not whole")).to_be_visible()
    expect(page.get_by_text(problem)).to_be_visible()
    expect(page.get_by_text("resumed at round 7")).to_be_visible()
    expect(page.locator(".answer")).to_have_count(5)


def test_texts_of_a_run_are_no_markup(new_page, server, site):
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    site.sections["facts"] = {**site.sections["facts"], "name": evil, "differs": {evil: [evil, evil]}}
    site.sections["notable"] = [{"round": 1, "text": evil, "level": "look", "url": None}]
    page = open_page(new_page(), server.url + "/runs/digits-s42")
    expect(page.locator("h1")).to_have_text(evil)
    expect(page.locator("main img")).to_have_count(0)
