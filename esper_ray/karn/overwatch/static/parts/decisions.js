// A decision of the policy with its alternatives.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { empty, shareBar } from "./elements.js";
import { fixed, known, percent, signed } from "../numbers.js";
import { HEADS, choiceName, words } from "../words.js";

/** Operations by probability with Q, and the heads that the operation uses. `names`: of the choices of each head. */
export function decisionPanel(record, names) {
  if (!record) {
    return empty(
      "The decision of this step was not sampled.",
      "Decisions are sampled at every operation but WAIT, and at some WAITs.",
    );
  }
  const rows = Object.entries(record.operations ?? {}).sort(([, a], [, b]) => (b ?? 0) - (a ?? 0));
  return html`<div class="scroll" tabindex="0" role="group" aria-label="Alternatives"><table class="full">
      <thead><tr><th scope="col">operation</th><th scope="col" class="n">probability</th>
        <th scope="col"><span class="gone">bar</span></th><th scope="col" class="n">Q</th></tr></thead>
      <tbody>${rows.map(
        ([name, probability]) => html`<tr class=${name === record.operation ? "chosen" : ""}>
          <th scope="row">${name}${name === record.operation ? html` <b>(chosen)</b>` : nothing}</th>
          <td class="n">${fixed(probability, 3)}</td><td class="bar-cell">${shareBar(probability)}</td>
          <td class="n">${signed(record.values?.[name], 3)}</td></tr>`,
      )}</tbody></table></div>
    <p class="soft small">V of the state ${signed(record.value, 3)}; slot and arguments given the operation: probability
      ${fixed(record.argument_probability, 3)}.</p>
    ${heads(record.heads, names)}`;
}

function heads(recorded, names) {
  if (!recorded) return html`<p class="soft small">Heads: not recorded by this version.</p>`;
  const used = HEADS.filter((head) => recorded[head]);
  return html`<div class="scroll" tabindex="0" role="group" aria-label="Heads of the decision"><table class="full">
    <thead><tr><th scope="col">head</th><th scope="col">choice</th><th scope="col" class="n">probability</th>
      <th scope="col" class="n">entropy, nats</th><th scope="col" class="n">legal</th></tr></thead>
    <tbody>${used.map(
      (head) => html`<tr><th scope="row">${words(head)}</th>
      <td>${words(choiceName(head, recorded[head].choice, names))}</td>
      <td class="n">${fixed(recorded[head].probability, 3)}</td><td class="n">${fixed(recorded[head].entropy, 2)}</td>
      <td class="n">${recorded[head].legal}</td></tr>`,
    )}</tbody>
  </table></div>`;
}

/** Q of what was done against the best alternative, by operation. */
export function greedyRows(decisions) {
  const byOperation = new Map();
  for (const record of decisions) {
    const own = record.values?.[record.operation];
    const others = Object.entries(record.values ?? {}).filter(([name, q]) => name !== record.operation && known(q));
    if (!known(own)) continue;
    const best = others.length ? Math.max(...others.map(([, q]) => q)) : null;
    const row = byOperation.get(record.operation) ?? {
      n: 0,
      own: 0,
      best: 0,
      compared: 0,
      greedy: 0,
      probability: 0,
    };
    row.n += 1;
    row.own += own;
    row.probability += record.probability ?? 0;
    if (best !== null) {
      row.compared += 1;
      row.best += best;
      row.greedy += own >= best ? 1 : 0;
    }
    byOperation.set(record.operation, row);
  }
  return [...byOperation].sort(([, a], [, b]) => b.n - a.n);
}

export function greedyTable(decisions) {
  const rows = greedyRows(decisions);
  if (!rows.length) return empty("No sampled decision has values.", "Values are recorded with telemetry on.");
  return html`<div class="scroll" tabindex="0" role="group" aria-label="Q against what was done"><table class="full">
    <thead><tr><th scope="col">done</th><th scope="col" class="n">n</th><th scope="col" class="n">its Q</th>
      <th scope="col" class="n">best other Q</th><th scope="col" class="n">best by Q</th>
      <th scope="col" class="n">probability</th></tr></thead>
    <tbody>${rows.map(
      ([name, row]) => html`<tr><th scope="row">${name}</th><td class="n">${row.n}</td>
      <td class="n">${signed(row.own / row.n, 3)}</td>
      <td class="n">${row.compared ? signed(row.best / row.compared, 3) : "-"}</td>
      <td class="n">${row.compared ? percent(row.greedy / row.compared, 0) : "-"}</td>
      <td class="n">${fixed(row.probability / row.n, 3)}</td></tr>`,
    )}</tbody></table></div>`;
}
