"""Pages of episodes, seeds, the network and the policy, in a browser."""

import re

import pytest
from browser_pages import expect, open_page
from overwatch_answers import RUN, episode, network, policy
from overwatch_data import sections

pytestmark = [pytest.mark.integration, pytest.mark.nightly]
EPISODE = "/runs/digits-s42/episodes/51"


def test_episodes_are_sorted_and_paged_by_the_server_through_the_address(new_page, server):
    page = open_page(new_page(), server.url + "/runs/digits-s42/episodes")
    expect(page.locator("tbody tr")).to_have_count(100)
    expect(page.locator("tbody th").first).to_have_text("229")
    page.get_by_role("button", name="accuracy", exact=True).click()
    expect(page).to_have_url(re.compile("sort=val_accuracy_pp&descending=1"))
    page.get_by_role("button", name="Next").click()
    expect(page).to_have_url(re.compile("offset=100"))
    expect(page.locator(".filters")).to_contain_text("101 to 200 of 230")
    assert any("sort=val_accuracy_pp" in path and "offset=100" in path for path in server.requests)


def test_an_episode_without_a_control_says_not_measured(new_page, server):
    page = open_page(new_page(), server.url + "/runs/digits-s42/episodes?sort=episode&descending=&filter=round%3D1")
    expect(page.locator("tbody tr")).to_have_count(8)
    expect(page.get_by_role("row").filter(has=page.get_by_role("link", name="0", exact=True))).to_contain_text(
        "not measured"
    )


def test_a_rolled_back_episode_is_marked(new_page, server):
    page = open_page(new_page(), server.url + "/runs/digits-s42/episodes?filter=round%3D6")
    expect(page.get_by_text("X rolled back")).to_have_count(1)


def test_an_episode_shows_lanes_and_the_reward_of_the_chosen_step(new_page, server):
    page = open_page(new_page(), f"{server.url}{EPISODE}?step=20")
    expect(page.locator("svg.lanes rect.fill-fossilized")).to_have_count(2)
    step = page.locator("#step")
    expect(step).to_contain_text("Step 20")
    row = step.get_by_role("row", name=re.compile("fossilization"))
    expect(row).to_contain_text("+0.2100")
    expect(row).to_contain_text("step 13")
    expect(row).to_contain_text("worth +4.1 pp")


def test_the_cursor_moves_by_pointer_key_and_link_and_is_in_the_address(new_page, server):
    page = open_page(new_page(), server.url + EPISODE)
    expect(page.locator(".stepper output")).to_have_text("step 24 of 24")
    slider = page.get_by_label("Step", exact=True)
    slider.focus()
    page.keyboard.press("ArrowLeft")
    expect(page).to_have_url(re.compile(r"step=23"))
    box = page.locator("svg.lanes").bounding_box()
    page.mouse.click(box["x"] + 74 + (box["width"] - 84) * 0.5, box["y"] + 60)
    expect(page).to_have_url(re.compile(r"step=1[23]"))
    page.locator("#table-h ~ .scroll").get_by_role("link", name="5", exact=True).click()
    expect(page.locator("#step-h")).to_have_text("Step 5")
    expect(page.locator("#step")).to_contain_text("without effect")


def test_a_sampled_decision_is_shown_with_its_alternatives(new_page, server):
    page = open_page(new_page(), f"{server.url}{EPISODE}?step=2")
    decision = page.locator("section:has(#decision-h)")
    expect(decision.get_by_role("row", name=re.compile("GERMINATE"))).to_contain_text("chosen")
    expect(decision).to_contain_text("SET_ALPHA_TARGET")
    expect(decision.get_by_role("row", name=re.compile("^slot"))).to_contain_text("r0c0")
    page.goto(f"{server.url}{EPISODE}?step=3")
    expect(page.locator("section:has(#decision-h)")).to_contain_text("was not sampled")


def test_unmeasured_attribution_is_not_zero(new_page, server):
    page = open_page(new_page(), server.url + EPISODE)
    table = page.get_by_role("group", name="Attribution")
    expect(table.get_by_role("row", name=re.compile("r0c0"))).to_contain_text("+4.4 ± 0.5 pp")
    expect(table.get_by_role("row", name=re.compile("r0c2"))).to_contain_text("not measured")


def test_refused_gates_and_vetoes_are_among_the_events(new_page, server):
    page = open_page(new_page(), server.url + EPISODE)
    events = page.get_by_role("group", name="Events")
    expect(events).to_contain_text("r0c0 gate G2 refused: gradient health 0.31 (needed 0.5)")
    expect(events).to_contain_text("r0c2: germination vetoed, parameters 9000 over 8000")


def test_an_episode_in_play_goes_on_and_keeps_the_chosen_step(new_page, server, site):
    page = open_page(new_page(), server.url + "/runs/digits-s42/episodes/56?step=7")
    expect(page.locator(".stepper output")).to_have_text("step 7 of 14")
    site.answers[f"{RUN}/episodes/56"] = episode(56, live=True, steps=18)
    site.change(environments={"0": {**site.sections["environments"]["0"], "step": 18}})
    expect(page.locator(".stepper output")).to_have_text("step 7 of 18")
    expect(page.locator("#step-h")).to_have_text("Step 7")


def test_an_episode_without_a_step_says_so(new_page, server, site):
    site.answers[f"{RUN}/episodes/60"] = {**episode(60, live=True, steps=1), "steps": []}
    page = open_page(new_page(), server.url + "/runs/digits-s42/episodes/60")
    expect(page.locator(".empty")).to_contain_text("No step of this episode is recorded yet.")


def test_an_unknown_episode_names_the_nearest_and_a_command(new_page, server):
    page = new_page()
    page.allowed = ["404"]
    open_page(page, server.url + "/runs/digits-s42/episodes/9999")
    expect(page.locator("main")).to_contain_text("The nearest name is digits-s42")
    expect(page.locator("main code")).to_have_text("esper runs")


def test_the_story_of_a_seed_shows_gates_with_margins_and_its_rewards(new_page, server):
    page = open_page(new_page(), f"{server.url}{EPISODE}/seeds/r0c0-1")
    expect(page.locator(".lead")).to_contain_text("fossilized at step 13")
    gate = page.get_by_role("row", name=re.compile("gradient health"))
    expect(gate).to_contain_text("-0.19")
    expect(page.locator("#chart-worth canvas")).to_have_count(1)
    expect(page.locator("section:has(#reward-h)")).to_contain_text("+0.2100")


def test_the_network_shows_layers_with_seeds_between_them_at_any_step(new_page, server):
    page = open_page(new_page(), server.url + "/runs/digits-s42/network?episode=51&step=8")
    slots = page.locator(".network .slot")
    expect(slots).to_have_count(3)
    expect(slots.nth(0)).to_contain_text("conv_light")
    expect(slots.nth(2)).to_contain_text("empty slot")
    page.get_by_label("next step").click()
    expect(page).to_have_url(re.compile("step=9"))
    expect(slots.nth(2)).to_contain_text("bottleneck")
    page.get_by_role("link", name="table").click()
    expect(page).to_have_url(re.compile("as=table"))
    expect(page.get_by_role("row", name=re.compile("slot r0c2"))).to_contain_text("bottleneck")


def test_the_network_of_an_older_run_shows_its_slots_alone(new_page, server, site):
    site.answers[f"{RUN}/network"] = network(recorded=False)
    page = open_page(new_page(), server.url + "/runs/digits-s42/network?episode=51")
    expect(page.locator("main")).to_contain_text("not recorded by the version of this run")
    expect(page.locator(".network .slot")).to_have_count(3)


def test_the_policy_shows_heads_against_their_floor_and_the_chosen_head(new_page, server):
    page = open_page(new_page(), server.url + "/runs/digits-s42/policy?head=style")
    expect(page.locator("#head-h")).to_have_text("Head style")
    expect(page.locator("#chart-entropy .key")).to_contain_text("floor 0.08")
    page.get_by_role("link", name="blueprint").click()
    expect(page).to_have_url(re.compile("head=blueprint"))
    expect(page.locator("#head-h")).to_have_text("Head blueprint")


def test_a_collapsed_head_is_marked_in_words(new_page, server, site):
    table = {**site.sections["rounds"]["columns"]}
    table["head_entropy_style"] = [0.04] * len(table["round"])
    site.sections["rounds"] = {**site.sections["rounds"], "columns": table}
    page = open_page(new_page(), server.url + "/runs/digits-s42/policy")
    expect(page.get_by_role("row", name=re.compile("^style"))).to_contain_text("! collapsed")


def test_a_chosen_decision_stays_chosen_when_newer_ones_come(new_page, server, site):
    page = open_page(new_page(), server.url + "/runs/digits-s42/policy?decision=9015")
    chosen = page.get_by_role("group", name="Sampled decisions").locator("tr.chosen")
    expect(chosen).to_contain_text("s15")
    heads = page.get_by_role("group", name="Heads of the decision")
    expect(heads.get_by_role("row", name=re.compile("^slot r0c0 0.700"))).to_have_count(1)
    fresh = policy()
    fresh["decisions"].insert(0, {**fresh["decisions"][0], "seq": 9100, "step": 21})
    site.answers[f"{RUN}/policy"] = fresh
    site.change(rounds=sections(8)["rounds"])
    expect(page.get_by_role("group", name="Sampled decisions").locator("tbody tr")).to_have_count(21)
    expect(chosen).to_contain_text("s15")


def test_a_policy_without_an_update_says_so(new_page, server, site):
    site.answers[f"{RUN}/policy"] = policy(0)
    page = open_page(new_page(), server.url + "/runs/digits-s42/policy")
    expect(page.locator("main")).to_contain_text("No update has ended yet.")
