// Policies of an evaluation, with intervals.

import { html } from "../vendor/lit-html/lit-html.js";
import { panel } from "./elements.js";
import { intervalBar, intervalText, rangeOf } from "../charts/intervals.js";
import { accuracy, count, fixed, growth, points } from "../numbers.js";

export function policyTable(policies) {
  const rows = policies.map((row) => ({ ...row, mean_pp: row.accuracy_pp }));
  const range = rangeOf(rows, false);
  return panel(
    "policies-h",
    "Policies",
    html`<div class="scroll" tabindex="0" role="group" aria-label="Policies">
    <table class="full">
    <thead><tr><th scope="col">policy</th><th scope="col" class="n">test accuracy</th>
      <th scope="col" class="n">95 % interval</th><th scope="col"><span class="gone">interval</span></th>
      <th scope="col" class="n">gain over control</th><th scope="col" class="n">growth</th>
      <th scope="col" class="n">fossilized</th><th scope="col" class="n">rollbacks</th>
      <th scope="col" class="n">episodes</th></tr></thead>
    <tbody>${rows.map(
      (row) => html`<tr><th scope="row">${row.name}</th>
      <td class="n"><b>${accuracy(row.accuracy_pp)}</b></td>
      <td class="n">${fixed(row.low_pp, 1)} to ${fixed(row.high_pp, 1)}</td>
      <td class="bar-cell">${intervalBar(row, range, false)}</td>
      <td class="n">${points(row.gain_pp)}</td><td class="n">${growth(row.growth_ratio)}</td>
      <td class="n">${fixed(row.fossilized, 1)}</td>
      <td class="n">${fixed(row.rollbacks, 0)}</td><td class="n">${count(row.episodes)}</td></tr>`,
    )}</tbody></table>
      </div>`,
  );
}

/** Differences with their intervals on a common scale. */
export function pairRows(comparisons, label) {
  const range = rangeOf(comparisons);
  return html`<div class="scroll" tabindex="0" role="group" aria-label=${label}><table class="full">
    <thead><tr><th scope="col">difference</th><th scope="col" class="n">points, 95 % interval</th>
      <th scope="col"><span class="gone">interval</span></th><th scope="col" class="n">seeds</th></tr></thead>
    <tbody>${comparisons.map(
      (row) => html`<tr><th scope="row">${row.first} minus ${row.second}</th>
      <td class="n">${intervalText(row)}</td>
      <td class="bar-cell">${intervalBar(row, range)}</td><td class="n">${count(row.seeds)}</td></tr>`,
    )}</tbody></table></div>`;
}

export function pairTable(comparisons) {
  return panel("pairs-h", "Differences, paired by seed", pairRows(comparisons, "Differences"));
}
