// The policy: heads, operations by round, Q against what was done, sampled decisions.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import "../charts/charts.js";
import { addressWith, apiLink, chosen, chosenNumber } from "../state/address.js";
import { decisionPanel, greedyTable } from "../parts/decisions.js";
import { clock, empty, episodeLink, figures, followed, level, panel, shareBar, sparkline } from "../parts/elements.js";
import { fixed, known, percent, short, signed } from "../numbers.js";
import { fetchJson } from "../state/transport.js";
import { HEADS, OPERATIONS, lineStyle, words } from "../words.js";
import { zoomTools } from "./run.js";

export const reloads = [];
const GREEDY = "Over the sampled decisions: at every operation but WAIT, and at some WAITs.";
const DIAGNOSTICS = [
  ["kl", "approximate KL, nats"],
  ["clip_share", "share of clipped ratios"],
  ["ratio_max", "largest probability ratio"],
  ["explained_variance", "explained variance"],
  ["value_nrmse", "error of values, deviations of returns"],
  ["value_return_correlation", "correlation of values and returns"],
  ["grad_norm", "gradient norm"],
  ["policy_loss", "policy loss, nats"],
  ["value_loss", "loss of the critic"],
  ["advantage_std", "standard deviation of advantages"],
  ["log_prob_min", "least log-probability, nats"],
  ["learning_rate", "learning rate"],
  ["epsilon", "epsilon"],
  ["memory_rms", "memory, root mean square"],
  ["observation_clipped_share", "clipped features"],
  ["observation_drift_sigma", "drift of the normalizer, deviations"],
];

export function load(app, signal) {
  return fetchJson(apiLink(["runs", app.run, "policy"]), { signal });
}

export function changed(app, names) {
  if (names.includes("rounds") && app.feed.updates > 1) app.load();
}

export function view(app) {
  const { rounds = [], heads = {}, decisions = [] } = app.data;
  const columns = app.sections.rounds?.columns ?? {};
  if (!rounds.length) {
    return html`<div class="stack"><h1>Policy</h1>
      ${empty("No update has ended yet.", "The first one comes after the first round.")}
      ${decisions.length ? panel("decisions-h", "Sampled decisions", sampled(app, decisions)) : nothing}</div>`;
  }
  const head = HEADS.includes(chosen("head")) ? chosen("head") : "op";
  return html`<div class="stack">
    <div class="head"><h1>Policy</h1><span class="facts">${rounds.length} updates, newest of round
      ${rounds.at(-1) + 1}</span></div>
    ${panel("heads-h", "Heads", headTable(app, heads, columns, head),
      html`Normalized entropy is 1 for a uniform choice and 0 for a certain one. Below its floor, marked by a line, a
        head has collapsed.`)}
    <section class="panel" aria-labelledby="head-h">
      <h2 id="head-h">Head ${words(head)}</h2>
      ${zoomTools(rounds)}
      <div class="charts">
        ${specs(app, head).map((spec) => html`<esper-chart id="chart-${spec.key}" .spec=${spec}></esper-chart>`)}</div>
    </section>
    ${panel("operations-h", "Operations by round", operations(app, columns))}
    <div class="columns">
      <div class="side">
        ${panel("update-h", "Update by round", diagnostics(columns))}
        ${panel("greedy-h", "Q against what was done", greedyTable(decisions), GREEDY)}
      </div>
      ${panel("decisions-h", "Sampled decisions", sampled(app, decisions))}
    </div>
  </div>`;
}

function newest(values) {
  return values?.length ? values.at(-1) : null;
}

function normalized(heads, columns, name) {
  if (columns[`head_entropy_${name}`]) return columns[`head_entropy_${name}`];
  const about = heads[name] ?? {};
  return (about.entropy ?? []).map((value) =>
    known(value) && about.choices > 1 ? value / Math.log(about.choices) : null,
  );
}

function headTable(app, heads, columns, present) {
  const about = app.sections.facts ?? {};
  return html`<div class="scroll" tabindex="0" role="group" aria-label="Heads"><table class="full">
    <thead><tr><th scope="col">head</th><th scope="col" class="n">normalized entropy</th>
      <th scope="col"><span class="gone">bar</span></th><th scope="col">by round</th>
      <th scope="col" class="n">floor</th><th scope="col" class="n">choices</th>
      <th scope="col" class="n">steps with a choice</th><th scope="col" class="n">gradient</th></tr></thead>
    <tbody>${HEADS.map((name) => {
      const values = normalized(heads, columns, name);
      const entropy = newest(values);
      const floor = heads[name]?.floor ?? about.floors?.[name];
      const low = known(entropy) && known(floor) && entropy < floor;
      const count = heads[name]?.choices ?? about.choices?.[name];
      return html`<tr class=${name === present ? "chosen" : ""}>
        <th scope="row"><a href=${addressWith({ head: name })} aria-current=${name === present ? "true" : nothing}
          @click=${(event) => followed(event, { head: name })}>${words(name)}</a>
          ${low ? level("look", "collapsed") : nothing}</th>
        <td class="n">${
          known(entropy)
            ? fixed(entropy, 2)
            : html`<span class="soft">
        ${count === 1 ? "one choice only" : "not measured"}</span>`
        }</td>
        <td class="bar-cell">${shareBar(entropy, floor)}</td><td>${sparkline(values)}</td>
        <td class="n">${fixed(floor, 2)}</td><td class="n">${count ?? "-"}</td>
        <td class="n">${percent(newest(columns[`choice_share_${name}`]), 0)}</td>
        <td class="n">${fixed(newest(columns[`grad_norm_${name}`]), 3)}</td></tr>`;
    })}</tbody></table></div>`;
}

function specs(app, head) {
  const { memory, sections, data } = app;
  const columns = sections.rounds?.columns ?? {};
  if (memory.specsOf === columns && memory.specsHead === head) return memory.specs;
  const xs = (columns.round ?? []).map((round) => round + 1);
  const missing = xs.map(() => null);
  const floor = data.heads?.[head]?.floor ?? sections.facts?.floors?.[head];
  const chart = (key, title, series, more = {}) => ({
    key,
    title,
    xs,
    series,
    missing: "Not recorded by this version, or one choice only.",
    ...more,
  });
  const column = (name) => columns[name] ?? missing;
  memory.specsOf = columns;
  memory.specsHead = head;
  memory.specs = [
    chart(
      "entropy",
      "Normalized entropy",
      [{ name: "entropy", values: normalized(data.heads ?? {}, columns, head), form: (value) => fixed(value, 3) }],
      {
        floor: 0,
        top: 1,
        levels: known(floor) ? [{ name: `floor ${fixed(floor, 2)}`, value: floor, color: "2", dash: 1 }] : [],
      },
    ),
    chart(
      "share",
      "Share of steps with a choice",
      [{ name: "share", values: column(`choice_share_${head}`), form: (value) => percent(value, 0) }],
      { floor: 0, top: 1 },
    ),
    chart(
      "gradient",
      "Gradient norm before clipping",
      [{ name: "norm", values: column(`grad_norm_${head}`), form: short }],
      { floor: 0 },
    ),
  ];
  return memory.specs;
}

function diagnostics(columns) {
  const rows = DIAGNOSTICS.filter(([name]) => columns[name]?.some(known));
  if (!rows.length) return empty("Diagnostics of the update are not recorded by this version.");
  return html`<div class="scroll" tabindex="0" role="group" aria-label="Update by round"><table class="full">
    <thead><tr><th scope="col">quantity</th><th scope="col" class="n">newest</th><th scope="col">by round</th>
      <th scope="col" class="n">lowest</th><th scope="col" class="n">highest</th></tr></thead>
    <tbody>${rows.map(([name, title]) => {
      const values = columns[name].filter(known);
      return html`<tr><th scope="row">${title}</th><td class="n"><b>${short(newest(values))}</b></td>
        <td>${sparkline(columns[name])}</td>
        <td class="n">${short(Math.min(...values))}</td><td class="n">${short(Math.max(...values))}</td></tr>`;
    })}</tbody></table></div>`;
}

function operationSpec(app, columns) {
  const { memory } = app;
  if (memory.operationsOf === columns) return memory.operationSpec;
  const names = Object.keys(OPERATIONS).filter((name) => columns[`op_${name.toLowerCase()}`]);
  const total = columns.round.map((_, place) =>
    names.reduce((sum, name) => sum + (columns[`op_${name.toLowerCase()}`][place] ?? 0), 0),
  );
  memory.operationsOf = columns;
  memory.operationSpec = {
    key: "operations",
    title: "Share of the steps of a round",
    xs: columns.round.map((round) => round + 1),
    floor: 0,
    series: names.map((name, index) => ({
      name: OPERATIONS[name][1],
      ...lineStyle(index),
      form: (value) => percent(value, 0),
      values: columns[`op_${name.toLowerCase()}`].map((value, place) => (total[place] ? value / total[place] : null)),
    })),
  };
  return memory.operationSpec;
}

function operations(app, columns) {
  const rows = columns.round
    .map((_, place) => place)
    .reverse()
    .slice(0, 60);
  const names = Object.keys(OPERATIONS);
  return html`<esper-chart id="chart-operations" .spec=${operationSpec(app, columns)}></esper-chart>
    <div class="scroll" tabindex="0" role="group" aria-label="Operations by round"><table class="full">
      <thead><tr>
        <th scope="col" class="n">round</th>${names.map((name) => html`<th scope="col"
          class="n">${OPERATIONS[name][1]}</th>`)}<th scope="col" class="n">without
            effect</th><th scope="col" class="n">rollbacks</th></tr></thead>
      <tbody>${rows.map(
        (place) => html`<tr><th scope="row" class="n">${columns.round[place] + 1}</th>
        ${names.map((name) => html`<td class="n">${columns[`op_${name.toLowerCase()}`]?.[place] ?? "-"}</td>`)}
        <td class="n">${columns.refused?.[place] ?? "-"}</td><td class="n">${columns.rollbacks?.[place] || "-"}</td>
        </tr>`,
      )}</tbody>
    </table></div>`;
}

/** The list holds still: a chosen decision stays, newer ones come above it. */
function sampled(app, decisions) {
  if (!decisions.length) return empty("No decision is sampled.", "Samples are recorded with telemetry on.");
  const present = chosenNumber("decision") ?? null;
  const key = (record) => record.seq ?? record.time;
  const shown = decisions.find((record) => key(record) === present) ?? decisions[0];
  return html`<div class="scroll short" tabindex="0" role="group" aria-label="Sampled decisions"><table class="full">
      <thead><tr><th scope="col">where</th><th scope="col">operation</th><th scope="col" class="n">probability</th>
        <th scope="col" class="n">Q</th></tr></thead>
      <tbody>${decisions.slice(0, 60).map(
        (record) => html`<tr class=${record === shown ? "chosen" : ""}>
        <td><a href=${addressWith({ decision: key(record) })}
          @click=${(event) => followed(event, { decision: key(record) })}>${clock(record)}</a></td>
        <td>${record.operation} ${record.slot ?? ""}</td><td class="n">${fixed(record.probability, 3)}</td>
        <td class="n">${signed(record.values?.[record.operation], 3)}</td></tr>`,
      )}</tbody>
    </table></div>
    ${figures([
      ["environment", shown.env],
      [
        "episode",
        html`<a href=${episodeLink(app.run, shown.episode, shown.step)}>
      ${shown.episode}, step ${shown.step}</a>`,
      ],
      ["operation", `${shown.operation} ${shown.slot ?? ""}`],
    ])}
    ${decisionPanel(shown, app.sections.facts?.choice_names)}`;
}
