// Recordings of the flight recorder: the list, and one recording line by line.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { apiLink, choose, chosen, link, segments } from "../state/address.js";
import { empty } from "../parts/elements.js";
import { count, fixed, known, localTime } from "../numbers.js";
import { fetchJson } from "../state/transport.js";
import { words } from "../words.js";

export function load(app, signal) {
  const [, run, , number] = segments();
  return fetchJson(apiLink(["runs", run, "flight", ...(number === undefined ? [] : [number])]), { signal });
}

export function changed(app, names) {
  if (segments()[3] === undefined && names.includes("anomalies") && app.feed.updates > 1) app.load();
}

export function view(app) {
  return app.data.lines ? recording(app.data) : recordings(app);
}

function recordings(app) {
  const list = app.data.recordings ?? [];
  return html`<div class="stack">
    <div class="head"><h1>Flight recorder</h1><span class="facts">the last 2,000 items before something went
      wrong</span></div>
    ${
      list.length
        ? html`<div class="scroll tall" tabindex="0" role="group" aria-label="Recordings"><table class="full">
          <thead><tr><th scope="col" class="n">number</th><th scope="col">cause</th><th scope="col">written</th>
            <th scope="col" class="n">items</th><th scope="col" class="n">size</th></tr></thead>
          <tbody>${list.map(
            (entry) => html`<tr>
            <th scope="row" class="n"><a href=${link(["runs", app.run, "flight", entry.number])}>
            ${entry.number}</a></th>
            <td>${words(entry.what)}</td><td>${localTime(entry.time)}</td><td class="n">${count(entry.items)}</td>
            <td class="n">${known(entry.bytes) ? `${fixed(entry.bytes / 1024, 0)} KiB` : "-"}</td></tr>`,
          )}</tbody>
        </table></div>`
        : empty(
            "There is no recording.",
            html`One is written when the run fails, an anomaly begins, an environment is given up, rollbacks pile up, or
              on SIGUSR1.`,
          )
    }
    ${app.data.command ? html`<p>The same in a terminal: <code>${app.data.command}</code></p>` : nothing}
  </div>`;
}

function recording(data) {
  const text = chosen("filter").toLowerCase();
  const lines = data.lines.filter((line) => !text || `${line.kind} ${line.text}`.toLowerCase().includes(text));
  const last = data.lines
    .map((line) => line.time)
    .filter(known)
    .at(-1);
  return html`<div class="stack">
    <div class="head"><h1>Recording ${data.number}: ${words(data.what)}</h1><span class="facts">${localTime(data.time)},
      ${count(data.lines.length)} items</span></div>
    <form class="tools filters" role="search" @submit=${(event) => event.preventDefault()}>
      <label>Filter <input type="search" .value=${chosen("filter")}
        @input=${(event) => choose({ filter: event.target.value })} /></label>
      <span class="soft" aria-live="polite">
        ${count(lines.length)} items, the newest last; times are seconds before the end</span>
    </form>
    <div class="scroll tall" tabindex="0" role="group" aria-label="Items"><table class="full">
      <thead><tr><th scope="col" class="n">seconds</th><th scope="col">kind</th><th scope="col">item</th></tr></thead>
      <tbody>${lines.map(
        (line) => html`<tr>
        <td class="n">${known(line.time) && known(last) ? fixed(line.time - last, 2) : "-"}</td>
        <td class="nowrap">${words(line.kind)}</td>
        <td class="text">${
          line.record
            ? html`<details>
        <summary>${line.text}</summary><pre class="record">${JSON.stringify(line.record, null, 2)}</pre>
          </details>`
            : line.text
        }</td></tr>`,
      )}</tbody>
    </table></div>
  </div>`;
}
