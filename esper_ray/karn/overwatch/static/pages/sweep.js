// A sweep: ranking, curves of the best trials, accuracy against parameters, all trials.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import "../charts/charts.js";
import { apiLink, chosen } from "../state/address.js";
import { empty, level, panel, sortHeading } from "../parts/elements.js";
import { intervalBar, intervalText, rangeOf, scatter } from "../charts/intervals.js";
import { accuracy, compared, count, fixed, growth, known, setting } from "../numbers.js";
import { fetchJson } from "../state/transport.js";
import { lineStyle } from "../words.js";
import { zoomTools } from "./run.js";

const BEST = 8; // curves in the chart
const EVERY = 10000; // milliseconds between two looks at a sweep in progress
const LEVELS = { finished: "ok", running: "ok", stopped: "look", failed: "wrong" };
const memory = { data: null, spec: null };

export function load(app, signal) {
  if (!app.memory.timer) {
    const again = () => !document.hidden && !app.loading && app.data?.status !== "finished" && app.load();
    app.memory.timer = setInterval(again, EVERY);
  }
  return fetchJson(apiLink(["sweeps", app.place]), { signal });
}

function ranked(trials) {
  return [...trials].sort(
    (a, b) => (b.score_pp ?? -Infinity) - (a.score_pp ?? -Infinity) || compared(a.name, b.name),
  );
}

export function view(app) {
  const { name, status, trials = [], rankings = [], settings = [], note } = app.data;
  const order = ranked(trials);
  const done = trials.filter((trial) => trial.status === "finished").length;
  return html`<div class="stack">
    <div class="head"><h1>${name ?? app.place}</h1><span class="facts">sweep, ${done} of ${trials.length} trials
      finished${status ? `, ${status}` : ""}</span></div>
    ${rankings.length ? rankings.map((ranking, index) => rankingPanel(ranking, index, note))
      : panel("ranking-h", "Ranking", empty("There is no ranking yet.", "It is written when the sweep is over."))}
    ${curves(app, order)}
    ${panel("scatter-h", "Accuracy against parameters", points(order))}
    ${panel("trials-h", "Trials", trials.length ? trialTable(order, settings) : empty("No trial has started yet."))}
  </div>`;
}

function rankingPanel(ranking, index, note) {
  const range = rangeOf(ranking.rows, false);
  return panel(
    `ranking-${index}`,
    `Ranking: ${ranking.title}`,
    html`<div class="scroll" tabindex="0" role="group" aria-label="Ranking ${ranking.title}"><table class="full">
    <thead><tr><th scope="col" class="n">rank</th><th scope="col">choice</th>
      <th scope="col" class="n">objective in points, 95 %</th><th scope="col"><span class="gone">interval</span></th>
      <th scope="col" class="n">trials</th></tr></thead>
    <tbody>${ranking.rows.map(
      (row, place) => html`<tr><td class="n">${place + 1}</td><th scope="row">${row.choice}</th>
      <td class="n">${intervalText(row, (value) => fixed(value, 1))}</td>
      <td class="bar-cell">${intervalBar(row, range, false)}</td><td class="n">${row.trials}</td></tr>`,
    )}</tbody>
      </table></div>`,
    note ?? nothing,
  );
}

function spec(data, order) {
  if (memory.data === data) return memory.spec;
  const best = order.filter((trial) => trial.curve_pp?.some(known)).slice(0, BEST);
  const last = Math.max(1, ...best.map((trial) => trial.curve_pp.length));
  const xs = Array.from({ length: last }, (_, place) => place + 1);
  memory.data = data;
  memory.spec = {
    key: "objective",
    xs,
    title: order.length > BEST ? `Objective of the best ${BEST} trials, points` : "Objective of the trials, points",
    note: "Accuracy with fossilized seeds only, minus the price of all parameters beyond those of the host.",
    missing: "No trial has finished a round.",
    series: best.map((trial, index) => ({
      name: trial.name,
      values: xs.map((_, place) => trial.curve_pp[place] ?? null),
      form: (value) => fixed(value, 1),
      ...lineStyle(index),
    })),
  };
  return memory.spec;
}

function curves(app, order) {
  const chart = spec(app.data, order);
  return html`<section class="panel" aria-labelledby="curves-h">
    <h2 id="curves-h">Curves</h2>${zoomTools(chart.xs.map((x) => x - 1))}<esper-chart id="chart-objective"
      .spec=${chart}></esper-chart></section>`;
}

function points(order) {
  const rows = order.map((trial, place) => ({
    x: trial.parameters ?? trial.growth_ratio,
    y: trial.accuracy_pp,
    name: trial.name,
    mark: String(place + 1),
  }));
  const byGrowth = order.every((trial) => !known(trial.parameters));
  if (!rows.some((row) => known(row.x) && known(row.y))) return empty("No trial has an accuracy yet.");
  const label = "Accuracy of each trial against its parameters. The numbers are those of the table of trials.";
  return html`${scatter(rows, { across: byGrowth ? "parameters over those of the host" : "parameters",
    up: "accuracy, percent", label,
      form: (value) => (byGrowth ? fixed(value, 1) : count(Number(value.toPrecision(6)))) })}
    <p class="soft small">The number of a point is the rank of its trial in the table below.</p>`;
}

function trialTable(order, settings) {
  const columns = [
    { key: "rank", title: "rank", sortable: true, number: true, of: (_, place) => place },
    { key: "name", title: "trial", sortable: true, of: (trial) => trial.name },
    ...settings.map((key) => ({ key, title: key, sortable: true, of: (trial) => setting(trial.settings?.[key]) })),
    { key: "status", title: "state", sortable: true, of: (trial) => trial.status },
    { key: "round", title: "rounds", sortable: true, number: true, of: (trial) => trial.round },
    { key: "score", title: "objective, points", sortable: true, number: true, of: (trial) => trial.score_pp },
    { key: "accuracy", title: "accuracy", sortable: true, number: true, of: (trial) => trial.accuracy_pp },
    { key: "growth", title: "growth", sortable: true, number: true, of: (trial) => trial.growth_ratio },
    { key: "rollbacks", title: "rollbacks", sortable: true, number: true, of: (trial) => trial.rollbacks },
  ];
  const sort = chosen("sort", "rank");
  const descending = chosen("descending") === "1";
  const column = columns.find((candidate) => candidate.key === sort) ?? columns[0];
  const rows = order.map((trial, place) => ({ trial, place }));
  rows.sort(
    (a, b) =>
      (descending ? -1 : 1) * compared(column.of(a.trial, a.place) ?? -1e9, column.of(b.trial, b.place) ?? -1e9),
  );
  return html`<div class="scroll tall" tabindex="0" role="group" aria-label="Trials"><table class="full">
    <thead><tr>${columns.map((entry) => sortHeading(entry, sort, descending))}</tr></thead>
    <tbody>${rows.map(
      ({ trial, place }) => html`<tr><td class="n">${place + 1}</td>
      <th scope="row">${trial.url ? html`<a href=${trial.url}>${trial.name}</a>` : trial.name}</th>
      ${settings.map((key) => html`<td>${setting(trial.settings?.[key])}</td>`)}<td>
        ${level(LEVELS[trial.status] ?? "unknown", trial.status)}</td>
      <td class="n">${trial.round ?? "-"} of ${trial.rounds ?? "?"}</td><td class="n">${fixed(trial.score_pp, 1)}</td>
      <td class="n">${accuracy(trial.accuracy_pp)}</td>
      <td class="n">${growth(trial.growth_ratio)}</td><td class="n">${trial.rollbacks ?? "-"}</td></tr>`,
    )}</tbody>
      </table></div>`;
}
