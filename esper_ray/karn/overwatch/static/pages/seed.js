// The story of a seed: a sentence, a time line, gates with their margins, decisions and rewards.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import "../charts/charts.js";
import { apiLink, segments } from "../state/address.js";
import { waterfall } from "../parts/amounts.js";
import { empty, episodeLink, level, panel, stage } from "../parts/elements.js";
import { fixed, known, points, short, signed } from "../numbers.js";
import { fetchJson } from "../state/transport.js";
import { words } from "../words.js";

export function load(app, signal) {
  const [, run, , episode, , seed] = segments();
  return fetchJson(apiLink(["runs", run, "episodes", episode, "seeds", seed]), { signal });
}

export function changed(app, names) {
  if (names.includes("rounds") && app.feed.updates > 1) app.load();
}

const memory = { story: null, specs: [] };

export function view(app) {
  const [, , , episode, , seed] = segments();
  const story = app.data;
  return html`<div class="stack">
    <div class="head"><h1>${story.blueprint ?? "Seed"} in ${story.slot}</h1>
      <span class="facts">seed ${seed} of <a href=${episodeLink(app.run, episode)}>episode ${episode}</a></span></div>
    <p class="lead">${story.sentence}</p>
    ${panel("life-h", "Life", timeline(app, episode, story))}
    ${curves(story)}
    ${panel("gates-h", "Gates", gates(app, episode, story.gates ?? []), "A margin below zero is what was missing.")}
    <div class="columns">
      ${panel("decisions-h", "Decisions about it", decisions(app, episode, story.decisions ?? []))}
      ${panel("reward-h", "Reward that it caused", rewards(app, episode, story.rewards ?? []))}
    </div>
  </div>`;
}

function at(app, episode, step) {
  return html`<a class="clock" href=${episodeLink(app.run, episode, step)}>step ${step}</a>`;
}

function timeline(app, episode, story) {
  const transitions = story.transitions ?? [];
  if (!transitions.length)
    return empty(
      "No transition of this seed is recorded.",
      "Transitions are in the log when the round of the episode has ended.",
    );
  return html`<ol class="list">
    ${transitions.map(
      (record) => html`<li>${at(app, episode, record.step)} ${stage(record.to)} <b>
      ${words(record.to).toLowerCase()}</b>
      <span class="soft">after ${record.ticks} ${record.ticks === 1 ? "step" : "steps"}
        ${words(record.from).toLowerCase()}, by ${record.initiator}${record.reason ? `: ${words(record.reason)}`
          : ""}</span></li>`,
    )}
  </ol>`;
}

function specs(story) {
  if (memory.story === story) return memory.specs;
  const rows = story.contribution ?? [];
  const xs = rows.map((row) => row.step);
  const chart = { xs, across: "step", zooms: false };
  const low = rows.map((row) => (known(row.pp) && known(row.error_pp) ? row.pp - row.error_pp : null));
  const high = rows.map((row) => (known(row.pp) && known(row.error_pp) ? row.pp + row.error_pp : null));
  memory.story = story;
  memory.specs = [
    {
      ...chart,
      key: "worth",
      title: "Contribution, points of accuracy",
      series: [
        { name: "with the seed minus without", values: rows.map((row) => row.pp), form: (value) => points(value) },
      ],
      bands: low.some(known) ? [{ name: "± standard error", low, high }] : [],
      levels: [{ name: "no contribution", value: 0, color: "g", dash: 1 }],
    },
    {
      ...chart,
      key: "alpha",
      title: "Amplitude",
      series: [{ name: "alpha", values: rows.map((row) => row.alpha), color: "3", form: (value) => fixed(value, 2) }],
      floor: 0,
      top: 1,
    },
  ];
  return memory.specs;
}

function curves(story) {
  if (!(story.contribution ?? []).some((row) => known(row.pp))) {
    return panel(
      "worth-h",
      "Contribution",
      empty("The contribution of this seed was not measured.", "It is measured from the blending stage on."),
    );
  }
  return html`<section class="panel" aria-labelledby="worth-h"><h2 id="worth-h">Contribution and amplitude</h2>
    <div class="charts">${specs(story).map((spec) => html`<esper-chart id="chart-${spec.key}"
      .spec=${spec}></esper-chart>`)}</div></section>`;
}

function gates(app, episode, entries) {
  if (!entries.length) return empty("No gate of this seed is recorded.");
  const rows = entries.flatMap((gate) => gate.checks.map((check, index) => ({ gate, check, index })));
  return html`<div class="scroll" tabindex="0" role="group" aria-label="Gates"><table class="full">
    <thead><tr><th scope="col">step</th><th scope="col">gate</th><th scope="col">check</th>
      <th scope="col" class="n">value</th><th scope="col" class="n">needed</th><th scope="col" class="n">margin</th>
      </tr></thead>
    <tbody>${rows.map(
      ({ gate, check, index }) => html`<tr>
      <td>${index ? nothing : at(app, episode, gate.step)}</td>
      <td>${index ? nothing
        : html`${gate.gate} ${level(gate.passed ? "ok" : "wrong", gate.passed ? "passed" : "refused")}`}</td>
      <td>${words(check.name)}</td><td class="n">${short(check.value, 4, "unknown")}</td>
      <td class="n">${short(check.threshold, 4)}</td>
      <td class="n">${check.passed ? signed(check.margin, 3) : html`<b>${signed(check.margin, 3, "failed")}</b>`}</td>
      </tr>`,
    )}</tbody>
  </table></div>`;
}

function decisions(app, episode, entries) {
  if (!entries.length) return empty("No decision about this seed was sampled.");
  return html`<ul class="list">${entries.map(
    (record) => html`<li>${at(app, episode, record.step)} <b>
    ${record.operation}</b>
    <span class="soft">probability ${fixed(record.probability, 3)}${known(record.values?.[record.operation])
      ? `, Q ${signed(record.values[record.operation], 3)}` : ""}</span></li>`,
  )}</ul>`;
}

function rewards(app, episode, entries) {
  if (!entries.length) return empty("No reward names this seed as its cause.");
  const sources = new Map();
  for (const entry of entries) sources.set(entry.source, (sources.get(entry.source) ?? 0) + (entry.amount ?? 0));
  const total = entries.reduce((sum, entry) => sum + (entry.amount ?? 0), 0);
  const rows = [...sources].map(([source, amount]) => ({
    source,
    amount,
    slot: null,
    cause: null,
    reason: reasons(entries, source),
  }));
  return html`${waterfall(rows, null, { total, caption: "Reward that the seed caused, by source", plain: true })}
    <details><summary>Every entry (${entries.length})</summary>
      <ul class="list">${entries.map((entry) => html`<li>${at(app, episode, entry.step)} ${words(entry.source)}
        <b class="number">${signed(entry.amount, 4)}</b>
          <span class="soft">${entry.reason ?? ""}</span></li>`)}</ul></details>`;
}

function reasons(entries, source) {
  const own = entries.filter((entry) => entry.source === source);
  return own.length === 1 ? own[0].reason : `${own.length} entries`;
}
