// An evaluation: policies with intervals, and differences paired by seed.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { apiLink } from "../state/address.js";
import { empty, panel } from "../parts/elements.js";
import { counted, fixed } from "../numbers.js";
import { pairTable, policyTable } from "../parts/policies.js";
import { fetchJson } from "../state/transport.js";

const MOST_SEEDS = 200;

export function load(app, signal) {
  return fetchJson(apiLink(["evaluations", app.place]), { signal });
}

export function view(app) {
  const { name, seeds, policies = [], comparisons = [], scores = {} } = app.data;
  return html`<div class="stack">
    <div class="head"><h1>${name ?? app.place}</h1><span class="facts">evaluation on ${counted(seeds, "seed")}</span>
      </div>
    ${policies.length ? policyTable(policies)
      : empty("This evaluation has no result yet.", "Results are written when all episodes are over.")}
    ${comparisons.length ? pairTable(comparisons) : nothing} ${scoreTable(scores)}
  </div>`;
}

function scoreTable(scores) {
  const names = Object.keys(scores);
  const length = Math.max(0, ...names.map((name) => scores[name].length));
  if (!length) return nothing;
  const rows = Array.from({ length: Math.min(length, MOST_SEEDS) }, (_, place) => place);
  return panel(
    "scores-h",
    "Test accuracy by seed, percent",
    html`<details>
    <summary>${counted(length, "seed")}${length > MOST_SEEDS ? `, the first ${MOST_SEEDS}` : ""}</summary>
    <div class="scroll" tabindex="0" role="group" aria-label="Test accuracy by seed"><table>
      <thead><tr>
        <th scope="col" class="n">seed</th>${names.map((name) => html`<th scope="col" class="n">${name}</th>`)}</tr>
        </thead>
      <tbody>${rows.map(
        (place) => html`<tr>
        <th scope="row" class="n">${place + 1}</th>${names.map((name) => html`<td class="n">
        ${fixed(scores[name][place], 1)}</td>`)}</tr>`,
      )}</tbody></table></div></details>`,
  );
}
