// Runs that were chosen in the list, beside one another.

import { html } from "../vendor/lit-html/lit-html.js";
import { apiLink, chosenAll } from "../state/address.js";
import { comparedCurves, nothingToCompare, runTable, settingsTable } from "../parts/comparing.js";
import { fetchJson } from "../state/transport.js";
import { zoomTools } from "./run.js";

export const reloads = ["run"];

export async function load(app, signal) {
  const runs = chosenAll("run");
  return runs.length > 1 ? fetchJson(apiLink(["compare"], { run: runs }), { signal }) : { runs: [] };
}

export function view(app) {
  const data = app.data;
  if (!data.runs.length) return html`<div class="stack"><h1>Comparison of runs</h1>${nothingToCompare()}</div>`;
  const last = Math.max(0, ...data.runs.map((run) => run.columns?.round?.at(-1) ?? 0));
  return html`<div class="stack">
    <div class="head"><h1>Comparison of runs</h1><span class="facts">${data.runs.length} runs</span></div>
    <p class="soft">This is a look at curves of training. A verdict needs an evaluation on paired seeds: <code>esper
      evaluate RUN RUN</code>.</p>
    ${zoomTools([0, last])} ${comparedCurves(data)} ${runTable(data)} ${settingsTable(data)}
  </div>`;
}
