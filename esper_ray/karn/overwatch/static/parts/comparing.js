// Several runs beside one another: settings that differ, curves by group with intervals, single runs thin.

import { html } from "../vendor/lit-html/lit-html.js";
import "../charts/charts.js";
import { empty, level, panel } from "./elements.js";
import { fixed, growth, interval, known, setting } from "../numbers.js";
import { pairRows } from "./policies.js";
import { lineStyle } from "../words.js";

const inPercent = (value) => `${fixed(value, 1)} %`;
const memory = { data: null, specs: [] };

/** Values of a column by round, at the positions `xs`. */
function placed(xs, rounds, values, factor) {
  const byRound = new Map((rounds ?? []).map((round, place) => [round + 1, values?.[place]]));
  return xs.map((x) => (known(byRound.get(x)) ? factor * byRound.get(x) : null));
}

function specs(data) {
  if (memory.data === data) return memory.specs;
  const lastRound = (rounds) => (rounds?.length ? rounds.at(-1) + 1 : 0);
  const last = Math.max(
    1,
    ...data.runs.map((run) => lastRound(run.columns?.round)),
    ...(data.groups ?? []).map((group) => lastRound(group.round)),
  );
  const xs = Array.from({ length: last }, (_, place) => place + 1);
  memory.data = data;
  memory.specs = [
    chart(data, xs, "val_accuracy_ratio", "Validation accuracy at the end of an episode, percent", 100, inPercent),
    chart(data, xs, "growth_ratio", "Growth: parameters over those of the host", 1, growth),
  ];
  return memory.specs;
}

function chart(data, xs, name, title, factor, form) {
  const groups = (data.groups ?? []).filter((group) => group[name]?.mean?.some(known));
  const style = (index) => lineStyle(index);
  const grouped = groups.map((group, index) => ({
    name: group.n > 1 ? `${group.name}, mean of ${group.n}` : group.name,
    values: placed(xs, group.round, group[name].mean, factor),
    form,
    ...style(index),
  }));
  const single = data.runs.filter((run) => {
    const own = groups.find((group) => group.runs.includes(run.id));
    return !own || own.n > 1;
  });
  const thin = single.map((run) => {
    const index = groups.findIndex((group) => group.runs.includes(run.id));
    const own = style(index < 0 ? groups.length + data.runs.indexOf(run) : index);
    return {
      name: run.name,
      values: placed(xs, run.columns?.round, run.columns?.[name], factor),
      form,
      thin: groups.length > 0,
      ...own,
    };
  });
  const bands = groups.flatMap((group, index) => {
    const [low, high] = ["low", "high"].map((end) => placed(xs, group.round, group[name][end], factor));
    return low.some(known) ? [{ name: `${group.name}, 95 % interval`, low, high, color: style(index).color }] : [];
  });
  return {
    key: name.split("_")[0],
    title,
    xs,
    series: [...grouped, ...thin],
    bands,
    missing: "No run has a finished round.",
  };
}

export function comparedCurves(data) {
  return html`<section class="panel" aria-labelledby="curves-h"><h2 id="curves-h">Curves</h2>
    <p class="soft small">Bold: mean of a group over its seeds, with a 95 % interval. Thin: single runs. Returns are not
      shown: rewards of two modes cannot be compared.</p>
    <div class="charts two">${specs(data).map((spec) => html`<esper-chart id="chart-${spec.key}"
      .spec=${spec}></esper-chart>`)}</div></section>`;
}

export function settingsTable(data) {
  const rows = data.settings ?? [];
  if (!rows.length)
    return panel("settings-h", "Settings that differ", html`<p>All runs have the same configuration.</p>`);
  return panel(
    "settings-h",
    "Settings that differ",
    html`<div class="scroll" tabindex="0" role="group" aria-label="Settings that differ"><table class="full">
    <thead><tr>
      <th scope="col">key</th>${data.runs.map((run) => html`<th scope="col"><a
        href=${run.url}>${run.name}</a></th>`)}</tr></thead>
    <tbody>${rows.map(
      (row) => html`<tr>
      <th scope="row">${row.key}</th>${row.values.map((value) => html`<td>${setting(value)}</td>`)}</tr>`,
    )}</tbody>
      </table></div>`,
  );
}

export function runTable(data) {
  return panel(
    "runs-h",
    "Runs",
    html`<div class="scroll" tabindex="0" role="group" aria-label="Runs">
    <table class="full">
    <thead><tr><th scope="col">run</th><th scope="col">group</th><th scope="col">state</th>
      <th scope="col" class="n">seed</th><th scope="col" class="n">gain over control, 95 %</th></tr></thead>
    <tbody>${data.runs.map(
      (run) => html`<tr><th scope="row"><a href=${run.url}>${run.name}</a></th>
      <td>${run.group || "-"}</td><td>${run.status}</td><td class="n">${run.seed ?? "-"}</td>
      <td class="n">${interval(run.gain)}</td></tr>`,
    )}</tbody></table></div>`,
  );
}

/** The verdict of a comparison: from its evaluation alone. */
export function verdict(data) {
  const found = data.verdict;
  if (!found) {
    return html`<div class="notice">
      ${level("unknown", "no verdict")}
        ${data.verdict_missing ?? "There is no verdict: the evaluation of these runs is not over."} Curves of training
          are no verdict.</div>`;
  }
  const word = found.better === "undecided" ? "undecided" : "decided";
  return html`<section class="panel" aria-labelledby="verdict-h">
    <h2 id="verdict-h">Verdict ${level(found.better === "undecided" ? "look" : "ok", word)}</h2>
    <p class="lead">${found.text}</p>
    ${pairRows([found], "Difference of the objectives")}
  </section>`;
}

export function nothingToCompare() {
  return empty("There is nothing to compare.", html`Choose two to ten runs in the list of runs.`);
}
