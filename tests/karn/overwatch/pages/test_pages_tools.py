"""Log, SQL, flight recorder, comparisons, sweeps, evaluations, log-in and errors, in a browser."""

import re

import pytest
from browser_pages import expect, open_page
from overwatch_answers import RUN
from overwatch_comparisons import comparison, sweep

pytestmark = [pytest.mark.integration, pytest.mark.nightly]


def test_the_log_is_filtered_by_kind_and_text_and_shows_raw_records(new_page, server):
    page = open_page(new_page(), server.url + "/runs/digits-s42/log")
    page.get_by_label("Kind").select_option("gate")
    page.get_by_label("Text").fill("attention")
    page.get_by_label("Text").press("Enter")
    expect(page).to_have_url(re.compile("kind=gate&text=attention"))
    row = page.locator("tbody tr").first
    row.locator("summary").click()
    expect(row.locator("pre")).to_contain_text('"blueprint": "attention"')


def test_older_records_are_a_page_of_their_own(new_page, server):
    page = open_page(new_page(), server.url + "/runs/digits-s42/log")
    page.get_by_role("button", name="Older").click()
    expect(page).to_have_url(re.compile("before=460"))
    expect(page.locator("tbody th").first).to_have_text("459")
    page.go_back()
    expect(page.locator("tbody th").first).to_have_text("499")


def test_the_log_holds_still_while_a_record_is_open(new_page, server, site):
    page = open_page(new_page(), server.url + "/runs/digits-s42/log")
    page.locator("tbody summary").nth(3).click()
    asked = sum("/log?" in path for path in server.requests)
    site.change(notable=[])
    expect(page.get_by_text("the list holds still")).to_be_visible()
    assert sum("/log?" in path for path in server.requests) == asked


def test_the_log_is_read_again_when_something_is_logged_and_not_when_a_clock_moves(new_page, server, site):
    page = open_page(new_page(), server.url + "/runs/digits-s42/log")
    asked = sum("/log?" in path for path in server.requests)
    site.change(age={"phase": "learning"})
    site.answers[f"{RUN}/log"] = {"records": [{"seq": 900, "kind": "outcome"}], "kinds": [], "before": None}
    site.change(notable=[])
    expect(page.locator("tbody th")).to_have_text(["900"])
    assert sum("/log?" in path for path in server.requests) == asked + 1


def test_a_query_is_in_the_address_and_its_result_is_paged(new_page, server):
    page = open_page(new_page(), server.url + "/runs/digits-s42/sql")
    page.get_by_label("Query").fill("SELECT round FROM outcome")
    page.get_by_role("button", name="Run").click()
    expect(page).to_have_url(re.compile(r"query=SELECT\+round"))
    expect(page.get_by_role("group", name="Result").locator("tbody tr")).to_have_count(50)
    page.get_by_role("button", name="Next").click()
    expect(page.get_by_text("rows 51 to 100")).to_be_visible()
    expect(page.get_by_role("link", name="As CSV")).to_have_attribute("href", re.compile("format=csv"))


def test_a_refused_query_shows_the_reason(new_page, server):
    page = new_page()
    page.allowed = ["400"]
    open_page(page, server.url + "/runs/digits-s42/sql?query=DROP+TABLE+outcome")
    expect(page.get_by_role("alert")).to_contain_text("only one SELECT is allowed")
    expect(page.get_by_label("Query")).to_have_value("DROP TABLE outcome")


def test_sql_that_is_switched_off_says_how_to_switch_it_on(new_page, server, site):
    site.answers[f"{RUN}/sql/tables"] = {"enabled": False, "reason": "SQL is off on this host.", "tables": []}
    page = open_page(new_page(), server.url + "/runs/digits-s42/sql")
    expect(page.locator(".empty")).to_contain_text("--sql")


def test_recordings_are_listed_and_told_in_seconds_before_the_end(new_page, server):
    page = open_page(new_page(), server.url + "/runs/digits-s42/flight")
    page.get_by_role("link", name="1", exact=True).click()
    expect(page.get_by_role("row", name=re.compile("env epoch"))).to_contain_text("-2.25")
    page.get_by_label("Filter").fill("worker")
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page).to_have_url(re.compile("filter=worker"))


def test_chosen_runs_are_compared_with_groups_and_single_runs(new_page, server):
    page = open_page(new_page(), server.url + "/compare?run=run-0&run=run-1")
    key = page.locator("#chart-val .key")
    expect(key).to_contain_text("A, mean of 2")
    expect(key).to_contain_text("B, 95 % interval")
    expect(key).to_contain_text("run-3")
    expect(page.get_by_role("row", name=re.compile("reward.mode"))).to_contain_text("sparse")


def test_one_run_alone_is_not_compared(new_page, server):
    page = open_page(new_page(), server.url + "/compare?run=run-0")
    expect(page.locator(".empty")).to_contain_text("There is nothing to compare.")
    assert [path for path in server.requests if "/api/v1/compare" in path] == []


def test_a_comparison_has_its_verdict_from_the_evaluation_alone(new_page, server, site):
    page = open_page(new_page(), server.url + "/comparisons/shaped-vs-sparse")
    expect(page.locator("section:has(#verdict-h)")).to_contain_text("needs about 70 seeds")
    site.answers["comparisons/shaped-vs-sparse"] = comparison(verdict=False)
    page.reload()
    expect(page.get_by_text("Curves of training are no verdict.")).to_be_visible()
    expect(page.locator("#verdict-h")).to_have_count(0)


def test_a_sweep_shows_ranking_trials_and_accuracy_against_parameters(new_page, server, site):
    page = open_page(new_page(), server.url + "/sweeps/modes?sort=accuracy&descending=1")
    expect(page.locator("section:has(#ranking-0) tbody tr").first).to_contain_text("42.0 [40.1, 44.0]")
    expect(page.locator("svg.scatter circle")).to_have_count(8)
    best = max(trial["accuracy_pp"] for trial in sweep()["trials"])
    expect(page.get_by_role("group", name="Trials").locator("tbody tr").first).to_contain_text(f"{best:.1f} %")
    site.answers["sweeps/modes"] = {**sweep(), "rankings": [], "trials": [], "status": "running"}
    page.reload()
    expect(page.locator("main")).to_contain_text("There is no ranking yet.")


def test_an_evaluation_shows_policies_and_paired_differences(new_page, server):
    page = open_page(new_page(), server.url + "/evaluations/final")
    expect(page.get_by_role("row", name=re.compile("^digits-s42 49.0"))).to_contain_text("+21.0 pp")
    expect(page.get_by_role("row", name="digits-s42 minus heuristic +3.8 [+1.9, +5.6] 20")).to_be_visible()


def test_the_log_in_form_works_without_a_script_and_names_the_token(new_page, server):
    page = new_page()
    page.goto(f"{server.url}/login?wrong=1")
    expect(page.get_by_role("alert")).to_contain_text("not the token")
    expect(page.get_by_label("Token")).to_be_focused()
    expect(page.locator("form")).to_have_attribute("method", "post")


def test_a_missing_page_names_the_nearest_and_the_command(new_page, server):
    page = new_page()
    page.allowed = ["404"]
    page.goto(f"{server.url}/runs")
    expect(page.locator("main")).to_contain_text("The nearest name is digits-s42")
    expect(page.locator("pre")).to_have_text("esper runs")
