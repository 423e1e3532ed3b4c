// Overview of a run: the five answers, curves, every environment with its slots.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import "../charts/charts.js";
import { choose, chosenZoom } from "../state/address.js";
import { clock, empty, facts, level, panel, stage, withoutClock } from "../parts/elements.js";
import { duration, known, localTime, setting, short, withError } from "../numbers.js";
import { QUESTIONS, words } from "../words.js";
import { curves } from "../charts/run_charts.js";
import { matrix } from "../charts/matrix.js";
import { amountRows } from "../parts/amounts.js";

const OUTCOMES = ["accuracy", "return"];
const UPDATES = ["growth", "kl", "clip", "explained", "entropy"];
const memory = { rounds: null, specs: [] };

/** Charts of the rounds; made anew only when a round is over. */
function specs(sections) {
  if (memory.rounds !== sections.rounds) {
    memory.rounds = sections.rounds;
    memory.specs = curves(sections.rounds);
  }
  return memory.specs;
}

export function chose(app, keys) {
  if (keys.includes("sort") || keys.includes("descending") || keys.includes("*")) app.memory.order = null;
}

export function view(app) {
  const { facts: about, answers, age, notable } = app.sections;
  return html`<div class="stack">
    ${heading(app, about ?? {}, age ?? {})} ${answerList(answers ?? {}, about ?? {})}
    ${curveSection(app, "curves", "Curves", OUTCOMES)} ${environmentSection(app)}
    ${curveSection(app, "update", "Growth and updates of the policy", UPDATES)}
    <div class="columns">
      <div class="side">
        ${panel("notable-h", "Notable", notableList(notable ?? []))}
        ${panel("blueprints-h", "Blueprints", blueprints(app.sections.blueprints ?? []), "Seeds that have ended.")}
        ${panel("gates-h", "Gates", gates(app.sections.gates), "Each gate stands between two stages of a seed.")}
      </div>
      <div class="side">
        ${panel("anomalies-h", "Anomalies and faults", troubles(app.sections))}
        ${panel("reward-h", "Reward by source", rewards(app.sections.reward), "Per step of the newest finished round.")}
        ${panel("run-h", "The run", runFacts(about ?? {}))}
      </div>
    </div>
  </div>`;
}

const OVER = new Set(["finished", "interrupted", "failed"]);

function heading(app, about, age) {
  const pieces = [about.task, about.preset && `preset ${about.preset}`, known(about.seed) && `seed ${about.seed}`];
  const speed = known(age.steps_per_second) ? `${short(age.steps_per_second)} steps/s` : null;
  const playing = age.phase === "playing" && known(age.of) ? ` ${age.episodes} of ${age.of} episodes` : "";
  const phase = age.phase ? `${age.phase}${playing}, ${duration(age.moved_age_s)}` : null;
  const state = OVER.has(about.status) ? [localTime(about.updated, null), speed] : [phase, speed];
  return html`<div class="head">
    <h1>${about.name ?? app.run}</h1>
    <span class="facts">${pieces.filter(Boolean).join(", ")}</span>
    <span class="facts number"><b>${about.status
      ?? "unknown"}</b>${state.filter(Boolean).map((text) => `, ${text}`)}</span>
  </div>`;
}

function answerList(answers, about) {
  return html`<section aria-labelledby="answers-h">
    <h2 id="answers-h" class="gone">Five answers</h2>
    <ul class="answers">
      ${Object.entries(QUESTIONS).map(([name, question]) => answerCard(name, question, answers[name], about))}
    </ul>
  </section>`;
}

function answerCard(name, question, answer, about) {
  const given = answer ?? { level: "unknown", text: "not recorded by this version", because: [] };
  const reasons = (given.because ?? []).filter((text) => text !== given.text);
  const since =
    known(given.since) && given.level !== "ok" && !given.text.includes("since round")
      ? html`<span class="soft">, since round ${given.since + 1}</span>`
      : nothing;
  const resume = name === "alive" && given.level === "wrong" && about.command_resume;
  return html`<li class="answer ${given.level}" id="answer-${name}">
    <h3 title=${question}><span class="question">${name}</span> ${level(given.level)}</h3>
    <p>${given.text}${since}</p>
    ${
      reasons.length
        ? html`<ul>${reasons.slice(0, 3).map((text) => html`<li>${text}</li>`)}</ul>
          ${
            reasons.length > 3
              ? html`<details><summary>${reasons.length - 3} more</summary>
            <ul>${reasons.slice(3).map((text) => html`<li>${text}</li>`)}</ul></details>`
              : nothing
          }`
        : nothing
    }
    ${resume ? html`<pre>${about.command_resume}</pre>` : nothing}
  </li>`;
}

function curveSection(app, key, title, names) {
  const columns = app.sections.rounds?.columns ?? {};
  const missing = "Curves begin with the first finished round; the environments show the steps in play.";
  if (!columns.round?.length) {
    return key === "curves" ? panel(`${key}-h`, title, empty("No round is over yet.", missing)) : nothing;
  }
  return html`<section class="panel" aria-labelledby="${key}-h">
    <h2 id="${key}-h">${title}</h2>
    ${key === "curves" ? zoomTools(columns.round) : nothing}
    <div class="charts">
      ${specs(app.sections)
        .filter((spec) => names.includes(spec.key))
        .map((spec) => chartOf(spec))}
    </div>
  </section>`;
}

function chartOf(spec) {
  const wide = spec.double ? "double" : "";
  return html`<esper-chart id="chart-${spec.key}" class=${wide} .spec=${spec}></esper-chart>`;
}

/** Fields for the shown rounds: what dragging over a chart does too. */
export function zoomTools(rounds) {
  const zoom = chosenZoom();
  const last = rounds.length ? rounds.at(-1) + 1 : 1;
  const change = (event) => {
    const form = event.currentTarget.form ?? event.currentTarget;
    const [from, to] = [Number(form.from.value), Number(form.to.value)];
    if (to > from) choose({ zoom: from <= 1 && to >= last ? null : `${from}-${to}` });
  };
  return html`<form class="tools" @submit=${(event) => {
    event.preventDefault();
    change(event);
  }}>
    <label>Rounds from <input name="from" type="number" min="1" max=${last} .value=${String(zoom?.[0] ?? 1)}
      @change=${change} /></label>
    <label>to <input name="to" type="number" min="1" max=${last} .value=${String(zoom?.[1] ?? last)} @change=${change}
      /></label>
    <button type="button" ?disabled=${!zoom} @click=${() => choose({ zoom: null })}>All rounds</button>
    <span class="soft small">Drag over a chart to zoom, double-click to see all.</span>
  </form>`;
}

function environmentSection(app) {
  const environments = Object.values(app.sections.environments ?? {});
  if (!environments.length) {
    return panel(
      "envs-h",
      "Environments",
      empty("No episode has started yet.", "The first episodes start when the workers are ready."),
    );
  }
  const live = environments.filter((env) => env.live).length;
  const note = html`The newest episode of each environment; ${live} of ${environments.length} in play. A letter is the
    stage of the seed in the slot, the number its contribution.`;
  return html`<section class="panel" aria-labelledby="envs-h">
    <h2 id="envs-h">Environments <span class="soft">(${environments.length})</span></h2>
    <p class="soft small">${note}</p>
    ${matrix(app, environments)}
  </section>`;
}

function notableList(entries) {
  if (!entries.length) return empty("Nothing yet.", "Seeds that end, rollbacks and anomalies are listed here.");
  return html`<div class="scroll middle" tabindex="0" role="group" aria-label="Notable events">
    <ul class="list">
      ${entries.map(
        (entry) => html`<li>${clock(entry)} ${notableMark(entry.level)}
          ${entry.url ? html`<a href=${entry.url}>${withoutClock(entry.text)}</a>` : withoutClock(entry.text)}</li>`,
      )}
    </ul>
  </div>`;
}

function notableMark(name) {
  if (name === "kept") return html`${stage("FOSSILIZED")} `;
  if (name === "lost") return html`${stage("PRUNED")} `;
  return name === "look" || name === "wrong" ? html`${level(name)} ` : nothing;
}

function troubles({ anomalies = [], faults = [] }) {
  if (!anomalies.length && !faults.length) return html`<p>No anomaly is open, and no fault is recorded.</p>`;
  return html`<ul class="list">
    ${anomalies.map(
      (anomaly) => html`<li>
        ${level("look", "anomaly")} ${words(anomaly.type)}${anomaly.subject ? ` (${words(anomaly.subject)})` : ""}:
        ${short(anomaly.value)}, threshold ${short(anomaly.threshold)}, since round ${anomaly.since_round + 1}</li>`,
    )}
    ${faults
      .slice(-10)
      .reverse()
      .map(
        (fault) => html`<li>
      ${level("wrong", "fault")} ${words(fault.kind)} ${fault.who}: ${fault.detail}</li>`,
      )}
  </ul>`;
}

function blueprints(rows) {
  if (!rows.length) return empty("No seed has ended yet.", "A seed ends when it is fossilized or pruned.");
  return html`<div class="scroll" tabindex="0" role="group" aria-label="Blueprints"><table class="full">
    <thead><tr><th scope="col">blueprint</th><th scope="col" class="n">kept</th><th scope="col" class="n">pruned</th>
      <th scope="col" class="n">contribution when kept</th><th scope="col" class="n">n</th></tr></thead>
    <tbody>${rows.map(
      (row) => html`<tr><th scope="row">${row.name}</th><td class="n">${row.fossilized}</td>
        <td class="n">${row.pruned}</td>
        <td class="n">${withError(row.contribution_pp, row.error)}</td><td class="n">${row.n ?? "-"}</td></tr>`,
    )}</tbody>
  </table></div>`;
}

function rewards(reward) {
  const sources = Object.entries(reward?.by_source_per_step ?? {});
  if (!sources.length) return empty("No round is over yet.", "The ledger of the first finished round is shown here.");
  const gaming = reward.gaming && Object.keys(reward.gaming).length ? reward.gaming : null;
  return html`${amountRows(sources.map(([name, amount]) => ({ name, amount })))}
    ${
      gaming
        ? html`<p class="small">Gaming: ${Object.entries(gaming)
            .map(([name, share]) => `${words(name)} ${short(share)}`)
            .join(", ")}</p>`
        : nothing
    }`;
}

function gates(gates_) {
  const names = [...new Set([...Object.keys(gates_?.passed ?? {}), ...Object.keys(gates_?.failed ?? {})])].sort();
  if (!names.length)
    return empty("No gate has been evaluated yet.", "Gates are evaluated when a seed is about to change its stage.");
  const failed = (name) => Object.entries(gates_.checks?.[name] ?? {}).map(([check, n]) => `${words(check)} ${n}`);
  return html`<div class="scroll" tabindex="0" role="group" aria-label="Gates"><table class="full">
    <thead><tr><th scope="col">gate</th><th scope="col" class="n">passed</th><th scope="col" class="n">refused</th>
      <th scope="col">failed checks</th></tr></thead>
    <tbody>${names.map(
      (name) => html`<tr><th scope="row">${name}</th><td class="n">${gates_.passed?.[name] ?? 0}</td>
        <td class="n">${gates_.failed?.[name] ?? 0}</td><td class="text">${failed(name).join(", ") || "-"}</td></tr>`,
    )}</tbody></table></div>`;
}

function runFacts(about) {
  const differs = Object.entries(about.differs ?? {});
  const links = Object.entries(about.links ?? {}).filter(([, url]) => url);
  const rows = [
    ["folder", about.path ?? about.folder],
    ["started", localTime(about.started)],
    ["host", about.host],
    ["machine", about.machine],
    ["version", about.program_version ?? about.version],
    ["rounds", about.rounds],
    ["slots", (about.slots ?? []).join(", ")],
    [
      "links",
      links.length
        ? links.map(
            ([name, url]) => html`<a href=${url}>
      ${name}</a> `,
          )
        : "Ray dashboard and metrics: not recorded",
    ],
    ["resume with", about.command_resume ? html`<code>${about.command_resume}</code>` : null],
  ];
  return html`${facts(rows.filter(([, value]) => value !== undefined && value !== null && value !== ""))}
    <h3>Differences from the preset</h3>
    ${
      differs.length
        ? html`<div class="scroll" tabindex="0" role="group" aria-label="Differences from the preset">
        <table class="full"><thead><tr><th scope="col">key</th><th scope="col">run</th><th scope="col">preset</th></tr>
          </thead>
          <tbody>${differs.map(
            ([key, [own, preset]]) => html`<tr><th scope="row">${key}</th><td>${setting(own)}</td>
            <td class="soft">${setting(preset)}</td></tr>`,
          )}</tbody></table></div>`
        : html`<p>There are none.</p>`
    }`;
}
