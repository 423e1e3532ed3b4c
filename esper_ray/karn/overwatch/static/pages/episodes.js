// All finished episodes of a run: sorted and filtered by the server, a page at a time.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { repeat } from "../vendor/lit-html/directives/repeat.js";
import { apiLink, choose, chosen, chosenNumber } from "../state/address.js";
import { empty, episodeLink, level, sortHeading } from "../parts/elements.js";
import { accuracy, count, growth, points, signed } from "../numbers.js";
import { fetchJson } from "../state/transport.js";

const ROWS = 100;
const COLUMNS = [
  { key: "episode", title: "episode", sortable: true, number: true },
  { key: "env", title: "env", sortable: true, number: true },
  { key: "round", title: "round", sortable: true, number: true },
  { key: "steps", title: "steps", sortable: true, number: true },
  { key: "return", title: "return", sortable: true, number: true },
  { key: "val_accuracy_pp", title: "accuracy", sortable: true, number: true },
  { key: "gain_pp", title: "gain over control", sortable: true, number: true },
  { key: "growth_ratio", title: "growth", sortable: true, number: true },
  { key: "fossilized", title: "fossilized", sortable: true, number: true },
  { key: "pruned", title: "pruned", sortable: true, number: true },
  { key: "rollback", title: "rollback", sortable: true },
];

export const reloads = ["sort", "descending", "offset", "filter"];

export function load(app, signal) {
  const query = {
    sort: chosen("sort", "episode"),
    descending: chosen("descending", chosen("sort") ? "" : "1"),
    offset: chosen("offset"),
    limit: ROWS,
    filter: chosen("filter"),
  };
  return fetchJson(apiLink(["runs", app.run, "episodes"], query), { signal });
}

/** Episodes are finished with their round: the list is read again then. */
export function changed(app, names) {
  if (names.includes("rounds") && app.feed.updates > 1) app.load();
}

export function view(app) {
  const { total, rows } = app.data;
  return html`<div class="stack">
    <div class="head"><h1>Episodes</h1><span class="facts">${count(total)} finished</span></div>
    ${tools(total, rows)}
    ${rows.length ? table(app, rows) : none(total)}
  </div>`;
}

function none(total) {
  if (chosen("filter") && !total) {
    return empty(
      "No episode matches the filter.",
      "A filter is a condition such as round=3, env=0, rollback or accuracy>50.",
    );
  }
  return empty(
    "No episode is finished yet.",
    "Episodes are listed when their round is over; those in play are on the overview.",
  );
}

function tools(total, rows) {
  const offset = chosenNumber("offset", 0);
  const label = total ? `${count(offset + 1)} to ${count(offset + rows.length)} of ${count(total)}` : "";
  return html`<form class="tools filters" role="search" @submit=${(event) => event.preventDefault()}>
    <label>Filter <input type="search" .value=${chosen("filter")} placeholder="round=3 env=0 rollback"
      @change=${(event) => choose({ filter: event.target.value, offset: null })} /></label>
    <span class="push number" aria-live="polite">${label}</span>
    <button type="button" ?disabled=${offset <= 0}
      @click=${() => choose({ offset: Math.max(0, offset - ROWS) || null })}>Previous</button>
    <button type="button" ?disabled=${offset + rows.length >= total}
      @click=${() => choose({ offset: offset + ROWS })}>Next</button>
  </form>`;
}

function table(app, rows) {
  const sort = chosen("sort", "episode");
  const descending = chosen("descending", chosen("sort") ? "" : "1") === "1";
  return html`<div class="scroll tall" tabindex="0" role="group" aria-label="Episodes"><table class="full">
    <thead><tr>${COLUMNS.map((column) => sortHeading(column, sort, descending))}</tr></thead>
    <tbody>${repeat(
      rows,
      (row) => `${row.round}/${row.episode}`,
      (row) => line(app, row),
    )}</tbody>
  </table></div>`;
}

function line(app, row) {
  return html`<tr>
    <th scope="row" class="n"><a href=${episodeLink(app.run, row.episode)}>${row.episode}</a></th>
    <td class="n">${row.env}</td>
    <td class="n">${row.round + 1}</td>
    <td class="n">${row.steps}</td>
    <td class="n">${signed(row.return, 3)}</td>
    <td class="n"><b>${accuracy(row.val_accuracy_pp)}</b></td>
    <td class="n">${points(row.gain_pp, "not measured")}</td>
    <td class="n">${growth(row.growth_ratio)}</td>
    <td class="n">${row.fossilized}</td>
    <td class="n">${row.pruned}</td>
    <td>${row.rollback ? level("wrong", "rolled back") : nothing}</td>
  </tr>`;
}
