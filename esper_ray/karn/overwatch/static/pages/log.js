// The event log, newest first: by kind and text, with the raw records. The list holds still while one reads.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { repeat } from "../vendor/lit-html/directives/repeat.js";
import { apiLink, choose, chosen } from "../state/address.js";
import { clock, empty, episodeLink, withoutClock } from "../parts/elements.js";
import { fetchJson } from "../state/transport.js";
import { words } from "../words.js";

const ROWS = 200;
const SOON = 600; // milliseconds from an update to the request, so that several updates are one request
const LOGGED = new Set(["rounds", "notable", "anomalies", "faults", "gates", "blueprints", "reward", "integrity"]);
export const reloads = ["kind", "text", "before"];

export function load(app, signal) {
  app.memory.fresh = 0;
  const query = { kind: chosen("kind"), text: chosen("text"), before: chosen("before"), limit: ROWS };
  return fetchJson(apiLink(["runs", app.run, "log"], query), { signal });
}

/** The newest page follows the run, unless it is held or a record is open. */
export function changed(app, names) {
  if (app.feed.updates <= 1 || chosen("before") || !names.some((name) => LOGGED.has(name))) return;
  if (chosen("hold") || document.querySelector("main details[open]")) {
    app.memory.fresh = (app.memory.fresh ?? 0) + 1;
    return;
  }
  if (app.memory.timer) return;
  app.memory.timer = setTimeout(() => {
    app.memory.timer = null;
    app.load();
  }, SOON);
}

export function view(app) {
  const { records, kinds, before } = app.data;
  return html`<div class="stack">
    <div class="head"><h1>Log</h1><span class="facts">newest first</span></div>
    <form class="tools filters" role="search" @submit=${(event) => event.preventDefault()}>
      <label>Kind <select @change=${(event) => choose({ kind: event.target.value, before: null })}>
        <option value="">all</option>
        ${(kinds ?? []).map(
          (kind) => html`<option value=${kind} .selected=${chosen("kind") === kind}>
          ${words(kind)}</option>`,
        )}
      </select></label>
      <label>Text <input type="search" .value=${chosen("text")}
        @change=${(event) => choose({ text: event.target.value, before: null })} /></label>
      <label><input type="checkbox" .checked=${Boolean(chosen("hold"))}
        @change=${(event) => held(app, event.target.checked)} /> Hold</label>
      <span class="push soft" aria-live="polite">
        ${app.memory.fresh ? "There are newer records; the list holds still." : nothing}</span>
      ${chosen("before") ? html`<button type="button" @click=${() => choose({ before: null })}>Newest</button>`
        : nothing}
      <button type="button" ?disabled=${before === null || before === undefined}
        @click=${() => choose({ before }, { push: true })}>Older</button>
    </form>
    ${records.length ? list(app, records)
      : empty("No record matches.", "Choose all kinds or another text; a run without telemetry records no events.")}
  </div>`;
}

function held(app, hold) {
  choose({ hold: hold ? "1" : null });
  if (!hold) app.load();
}

function list(app, records) {
  return html`<div class="scroll tall" tabindex="0" role="group" aria-label="Records"><table class="full">
    <thead><tr><th scope="col" class="n">number</th><th scope="col">where</th><th scope="col" class="wide">kind</th>
      <th scope="col">record</th></tr></thead>
    <tbody>${repeat(
      records,
      (record) => record.seq,
      (record) => row(app, record),
    )}</tbody>
  </table></div>`;
}

function row(app, record) {
  const place = Number.isInteger(record.episode)
    ? html`<a href=${episodeLink(app.run, record.episode, record.step)}>
    ${clock(record)}</a>`
    : clock(record);
  return html`<tr>
    <th scope="row" class="n">${record.seq}</th><td class="nowrap">${place}</td>
    <td class="nowrap wide">${words(record.kind)}</td>
    <td class="text"><details>
    <summary>${summary(record)}</summary><pre class="record">${JSON.stringify(withoutLine(record), null, 2)}</pre>
      </details></td>
  </tr>`;
}

const CLOCK = new Set(["seq", "kind", "round", "episode", "env", "step", "line", "time"]);

function withoutLine({ line: _, ...record }) {
  return record;
}

function summary(record) {
  if (record.line) return withoutClock(record.line);
  const pieces = Object.entries(record).filter(
    ([name, value]) => !CLOCK.has(name) && value !== null && typeof value !== "object",
  );
  return (
    pieces
      .slice(0, 6)
      .map(([name, value]) => `${words(name)} ${value}`)
      .join(", ") || "record"
  );
}
