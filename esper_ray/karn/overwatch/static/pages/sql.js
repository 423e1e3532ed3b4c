// One SELECT over the event log: the tables beside it, results a page at a time, and as CSV.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { apiLink, choose, chosen, chosenNumber } from "../state/address.js";
import { empty, level, panel } from "../parts/elements.js";
import { count, fixed, known } from "../numbers.js";
import { fetchJson, postJson } from "../state/transport.js";

const FIRST =
  "SELECT round, count(*) AS episodes, avg(total_reward) AS return_mean\nFROM outcome\nGROUP BY round\nORDER BY round";

export async function load(app, signal) {
  const tables = await fetchJson(apiLink(["runs", app.run, "sql", "tables"]), { signal });
  if (chosen("query") && tables.enabled !== false) ask(app);
  return tables;
}

/** Puts the query of the address to the server. */
async function ask(app) {
  const { memory } = app;
  memory.asked?.abort();
  const controller = new AbortController();
  memory.asked = controller;
  memory.answer = null;
  app.redraw();
  try {
    const body = { query: chosen("query"), offset: chosenNumber("offset", 0) };
    memory.answer = await postJson(apiLink(["runs", app.run, "sql"]), body, { signal: controller.signal });
  } catch (error) {
    if (error.name === "AbortError") return;
    memory.answer = { error: error.message };
  }
  memory.asked = null;
  app.redraw();
}

export function chose(app, keys) {
  if ((keys.includes("query") || keys.includes("offset") || keys.includes("*")) && chosen("query")) ask(app);
}

export function view(app) {
  const { enabled, reason, tables = [], examples = [] } = app.data;
  if (enabled === false) {
    return html`<div class="stack"><h1>SQL</h1>
      ${empty(reason ?? "SQL is switched off on this server.",
        "Start Overwatch with --sql, or ask on the machine of the run: esper sql RUN.")}</div>`;
  }
  return html`<div class="stack">
    <div class="head"><h1>SQL</h1><span class="facts">one SELECT over the event log, read only, at most 10 s and 10,000
      rows</span></div>
    <div class="columns wide-first">
      <div class="stack">${form(app, examples)} ${result(app)}</div>
      ${panel("tables-h", "Tables", tableList(tables))}
    </div>
  </div>`;
}

function form(app, examples) {
  const run = (event) => {
    event.preventDefault();
    choose({ query: event.currentTarget.query.value.trim(), offset: null });
  };
  const quick = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) event.currentTarget.form.requestSubmit();
  };
  return html`<form class="panel query" @submit=${run}>
    <label for="query"><b>Query</b> <span class="soft small">Control and Enter runs it</span></label>
    <textarea id="query" name="query" rows="7" spellcheck="false" autocomplete="off" .value=${chosen("query", FIRST)}
      @keydown=${quick}></textarea>
    <div class="tools">
      <button type="submit" class="main">Run</button>
      ${chosen("query") ? html`<a href=${csvLink(app)} download="result.csv">As CSV</a>` : nothing}
      ${
        examples.length
          ? html`<label class="push">Examples <select @change=${(event) => example(event, examples)}>
          <option value="">choose</option>
            ${examples.map((entry, index) => html`<option value=${index}>${entry.title}</option>`)}</select></label>`
          : nothing
      }
    </div>
  </form>`;
}

function csvLink(app) {
  return apiLink(["runs", app.run, "sql"], { format: "csv", query: chosen("query") });
}

function example(event, examples) {
  const entry = examples[Number(event.target.value)];
  if (event.target.value !== "" && entry) choose({ query: entry.query, offset: null });
}

function result(app) {
  const { answer, asked } = app.memory;
  if (asked) return html`<p class="soft" role="status">The query is running.</p>`;
  if (!answer)
    return empty("No query has been run yet.", "Change the query above and run it; the result is shown here.");
  if (answer.error)
    return html`<div class="notice" role="alert">${level("wrong", "refused")} <pre>${answer.error}</pre>
    </div>`;
  const offset = chosenNumber("offset", 0);
  const { columns, rows, more, seconds } = answer;
  const numeric = columns.map((_, index) =>
    rows.every((row) => row[index] === null || typeof row[index] === "number"),
  );
  return html`<section class="panel" aria-labelledby="result-h">
    <h2 id="result-h">Result</h2>
    <div class="tools"><span role="status">
      ${rows.length ? `rows ${count(offset + 1)} to ${count(offset + rows.length)}` : "no rows"}, ${fixed(seconds, 2)}
        s</span>
      <button type="button" class="push" ?disabled=${offset <= 0}
        @click=${() => choose({ offset: Math.max(0, offset - rows.length) || null })}>Previous</button>
      <button type="button" ?disabled=${!more} @click=${() => choose({ offset: offset + rows.length })}>Next</button>
        </div>
    <div class="scroll tall" tabindex="0" role="group" aria-label="Result"><table class="full">
      <thead><tr>${columns.map((name,
        index) => html`<th scope="col" class=${numeric[index] ? "n" : ""}>${name}</th>`)}</tr></thead>
      <tbody>${rows.map(
        (row) =>
          html`<tr>${row.map(
            (value, index) => html`<td class=${numeric[index] ? "n" : ""}>
        ${cell(value)}</td>`,
          )}</tr>`,
      )}</tbody>
    </table></div></section>`;
}

function cell(value) {
  if (value === null) return html`<span class="soft">null</span>`;
  if (known(value)) return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(6)));
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

function tableList(tables) {
  if (!tables.length) return empty("There is no table: the log has no events yet.");
  return html`${tables.map(
    (table) => html`<details><summary><b>${table.name}</b> ${table.about ?? ""}</summary>
    <ul class="list">${table.columns.map((column) => html`<li><code>${column.name}</code>
      <span class="soft">${column.type}${column.about ? `: ${column.about}` : ""}</span></li>`)}</ul></details>`,
  )}`;
}
