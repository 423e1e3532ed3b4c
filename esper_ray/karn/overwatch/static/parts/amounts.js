// Amounts of reward as bars: by source, and as a waterfall from zero to the sum.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { amountBar } from "./elements.js";
import { known, signed } from "../numbers.js";
import { words } from "../words.js";

/** Amounts by source, the greatest first. */
export function amountRows(rows) {
  const sorted = [...rows].sort((a, b) => Math.abs(b.amount ?? 0) - Math.abs(a.amount ?? 0));
  const amounts = rows.map((row) => row.amount).filter(known);
  const [least, greatest] = [Math.min(0, ...amounts), Math.max(0, ...amounts)];
  return html`<div class="scroll" tabindex="0" role="group" aria-label="Reward by source">
    <table class="full">
      <thead><tr><th scope="col">source</th><th scope="col" class="n">amount</th>
        <th scope="col"><span class="gone">bar</span></th>
        </tr></thead>
      <tbody>
        ${sorted.map(
          (row) => html`<tr>
            <th scope="row">${words(row.name)}</th>
            <td class="n">${signed(row.amount, 4, "not finite")}</td>
            <td class="bar-cell">${known(row.amount) ? amountBar(row.amount, least, greatest) : nothing}</td>
          </tr>`,
        )}
      </tbody>
    </table>
  </div>`;
}

/** Entries of a step as a waterfall: each bar begins where the one before has ended. */
export function waterfall(entries, step, { total, caption, plain = false }) {
  const sorted = [...entries].sort((a, b) => Math.abs(b.amount ?? 0) - Math.abs(a.amount ?? 0));
  let sum = 0;
  const rows = sorted.map((entry) => {
    const start = sum;
    sum += entry.amount ?? 0;
    return { ...entry, start, end: sum };
  });
  const edges = rows.flatMap((row) => [row.start, row.end]);
  const [least, greatest] = [Math.min(0, ...edges), Math.max(0, ...edges)];
  return html`<div class="scroll" tabindex="0" role="group" aria-label=${caption}>
    <table class="full">
      <thead>
        <tr>
          <th scope="col">source</th>
          ${plain ? nothing : html`<th scope="col">slot</th>`}<th scope="col" class="n">amount</th>
          <th scope="col"><span class="gone">bar</span></th>
          ${plain ? nothing : html`<th scope="col">caused by</th>`}<th scope="col">reason</th>
        </tr>
      </thead>
      <tbody>
        ${rows.map(
          (row) => html`<tr>
            <th scope="row" class="nowrap">${words(row.source)}</th>
            ${plain ? nothing : html`<td>${row.slot ?? "-"}</td>`}
            <td class="n">${signed(row.amount, 4, "not finite")}</td>
            <td class="bar-cell">${known(row.amount) ? amountBar(row.amount, least, greatest, row.start) : nothing}</td>
            ${
              plain
                ? nothing
                : html`<td class="nowrap">
              ${row.cause === step || !known(row.cause) ? "this step" : `step ${row.cause}`}</td>`
            }
            <td class="text">${row.reason ?? ""}</td>
          </tr>`,
        )}
        <tr>
          <th scope="row"><b>sum</b></th>${plain ? nothing : html`<td></td>`}
          <td class="n"><b>${signed(total, 4, "not finite")}</b></td>
          <td class="bar-cell">${known(total) ? amountBar(total, least, greatest) : nothing}</td>
          ${plain ? nothing : html`<td></td>`}<td class="text"></td>
        </tr>
      </tbody>
    </table>
  </div>`;
}
