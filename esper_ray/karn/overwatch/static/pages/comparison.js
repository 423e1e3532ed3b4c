// A comparison of two runs: verdict, settings, curves, evaluation.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { apiLink } from "../state/address.js";
import { comparedCurves, runTable, settingsTable, verdict } from "../parts/comparing.js";
import { pairTable, policyTable } from "../parts/policies.js";
import { fetchJson } from "../state/transport.js";
import { zoomTools } from "./run.js";

export function load(app, signal) {
  return fetchJson(apiLink(["comparisons", app.place]), { signal });
}

export function view(app) {
  const data = app.data;
  const last = Math.max(0, ...data.runs.map((run) => run.columns?.round?.at(-1) ?? 0));
  return html`<div class="stack">
    <div class="head"><h1>${data.name ?? app.place}</h1><span class="facts">comparison of
      ${data.runs.map((run) => run.name).join(" and ")}</span></div>
    ${verdict(data)} ${zoomTools([0, last])} ${comparedCurves(data)}
    ${data.evaluation?.policies?.length ? policyTable(data.evaluation.policies) : nothing}
    ${data.evaluation?.comparisons?.length ? pairTable(data.evaluation.comparisons) : nothing} ${runTable(data)}
      ${settingsTable(data)}
  </div>`;
}
