// One episode: lanes with one cursor, and all about the step under it.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import "../charts/lanes.js";
import { apiLink, choose, chosenNumber, link, segments } from "../state/address.js";
import { waterfall } from "../parts/amounts.js";
import { decisionPanel } from "../parts/decisions.js";
import { contribution, empty, facts, figures, level, operation, panel, seedLink, stage } from "../parts/elements.js";
import { accuracy, count, fixed, growth, known, points, short, signed, withError } from "../numbers.js";
import { stageKey } from "../charts/matrix.js";
import { presentStep, stepLink, stepper } from "../parts/stepper.js";
import { fetchJson } from "../state/transport.js";
import { OPERATIONS, words } from "../words.js";

const EVERY = 1000; // milliseconds between two requests for an episode in play

export function load(app, signal) {
  return fetchJson(apiLink(["runs", app.run, "episodes", segments()[3]]), { signal });
}

/** An episode in play is read again when its environment has changed, once a second at most. */
export function changed(app, names) {
  if (!app.data?.live || app.memory.waits) return;
  if (!names.includes("environments") && !names.includes("rounds")) return;
  app.memory.waits = true;
  setTimeout(() => {
    app.memory.waits = false;
    app.load();
  }, EVERY);
}

export function view(app) {
  const episode = app.data;
  if (!episode.steps.length) {
    return html`<h1>Episode ${episode.episode}</h1>
      ${empty("No step of this episode is recorded yet.", "It appears when the environment has done its first step.")}`;
  }
  const step = presentStep(episode.steps);
  return html`<div class="stack">
    ${heading(app, episode)}
    <section class="panel" aria-labelledby="lanes-h">
      <h2 id="lanes-h">Steps</h2>
      ${key(episode)}
      <esper-lanes .episode=${episode} .step=${step.step}
        @step=${(event) => choose({ step: event.detail })}></esper-lanes>
      ${stepper(episode.steps, step)}
    </section>
    ${stepPanels(app, episode, step)}
    ${panel("table-h", "All steps", allSteps(episode, step))}
  </div>`;
}

/** Final accuracy of the control: its own, or that of the mean of all at the same step. */
function controlOf(episode, last) {
  if (known(episode.control_accuracy_pp)) return ["control", episode.control_accuracy_pp];
  return ["control (mean of all)", episode.control_curve_pp?.[last.step] ?? null];
}

function heading(app, episode) {
  const outcome = episode.outcome;
  const last = episode.steps.at(-1);
  const best = episode.steps.reduce((a, b) => ((b.val_accuracy_pp ?? -1) > (a.val_accuracy_pp ?? -1) ? b : a));
  const state = episode.live ? level("ok", "in play") : level("ok", "over");
  const own = outcome?.val_accuracy_pp ?? last.val_accuracy_pp;
  const [name, control] = controlOf(episode, last);
  const sum = episode.steps.reduce((total, step) => total + (step.reward ?? 0), 0);
  return html`<div class="head">
      <h1>Episode ${episode.episode}</h1>
      <span class="facts">environment ${episode.env}, round ${episode.round + 1}, seed
        ${episode.seed ?? "unknown"}</span>
      ${episode.rollback ? level("wrong", "rolled back") : state}
      <a href=${link(["runs", app.run, "network"], { episode: episode.episode, step: chosenNumber("step") })}>its
        network</a>
    </div>
    ${figures([
      ["accuracy", accuracy(own)],
      [name, accuracy(control, "not measured")],
      ["gain", points(known(control) && known(own) ? own - control : null, "not measured")],
      ["best", stepLink(best.step, `${accuracy(best.val_accuracy_pp)}, step ${best.step}`)],
      ["growth", growth(outcome?.growth_ratio ?? last.growth_ratio)],
      ["return", signed(outcome?.total_reward ?? sum, 3)],
      ["steps", episode.steps.length],
    ])}
    ${episode.rollback ? rollback(episode.rollback) : nothing}
    ${episode.live ? html`<p class="soft">This episode is in play. Entries, gates and attribution are in the log when
      its round has ended.</p>` : nothing}`;
}

function rollback(record) {
  const values = known(record.value) ? ` (${short(record.value)}, threshold ${short(record.threshold)})` : "";
  return html`<div class="notice">
    ${level("wrong", "rollback")} The governor restored the last good snapshot after step ${record.step}:
      ${record.reason}${values}.</div>`;
}

function key(episode) {
  const present = new Set(episode.steps.flatMap((step) => Object.values(step.slots ?? {}).map((slot) => slot.stage)));
  const done = new Set(episode.steps.filter((step) => step.success).map((step) => step.operation));
  const control = episode.control_curve_pp
    ? `control without growth${episode.control_is_own === false ? " (mean of all)" : ""}`
    : null;
  return html`<ul class="key">
      <li><svg width="28" height="10" aria-hidden="true">
        <line class="s1" x2="28" y1="5" y2="5"></line></svg> accuracy</li>
      <li><svg width="28" height="10" aria-hidden="true">
        <line class="s3" x2="28" y1="5" y2="5" stroke-dasharray="2 3"></line></svg> fossilized seeds only</li>
      ${
        control
          ? html`<li><svg width="28" height="10" aria-hidden="true">
        <line class="s2" x2="28" y1="5" y2="5" stroke-dasharray="7 3"></line></svg> ${control}</li>`
          : html`<li>control: not measured</li>`
      }
      <li><svg width="10" height="10" aria-hidden="true">
        <circle class="gate-passed" cx="5" cy="5" r="3.5"></circle></svg> gate passed</li>
      <li><svg width="10" height="10" aria-hidden="true">
        <circle class="gate-refused" cx="5" cy="5" r="3.5"></circle></svg> gate refused</li>
      ${Object.entries(OPERATIONS)
        .filter(([name]) => name !== "WAIT" && done.has(name))
        .map(([, [letter, text]]) => html`<li><b>${letter}</b> ${text}</li>`)}
      <li><b>x</b> operation without effect</li>
    </ul>
    ${stageKey([...present].filter(Boolean))}`;
}

function stepPanels(app, episode, step) {
  const decision = (episode.decisions ?? []).find((record) => record.step === step.step);
  const effect = step.success === false ? " without effect" : "";
  const head = [
    ["operation", html`${operation(step.operation, step.success, step.slot)}${effect}`],
    ["reward", signed(step.reward, 4, "not finite")],
    ["value before", signed(step.value, 3)],
    ["accuracy", accuracy(step.val_accuracy_pp)],
    ["parameters", count(step.total_parameters)],
    ["growth", growth(step.growth_ratio)],
  ];
  return html`<section class="panel" id="step" aria-labelledby="step-h">
      <h2 id="step-h">Step ${step.step}</h2>
      ${figures(head)}
      ${step.why ? html`<p>The policy's reason: ${step.why}</p>` : nothing}
      <h3>Reward by source</h3>
      ${
        step.entries?.length
          ? waterfall(step.entries, step.step, {
              total: step.reward,
              caption: `Reward of step ${step.step} by source`,
            })
          : empty(
              episode.live
                ? "The entries of this reward are in the log when the round has ended."
                : "No entry is recorded for this step.",
            )
      }
      ${step.later?.length ? laterEntries(step) : nothing}
    </section>
    <div class="columns">
      <div class="side">
        ${panel("decision-h", "Decision", decisionPanel(decision, app.sections.facts?.choice_names))}
        ${panel("attribution-h", "Attribution at the end", attribution(episode))}
      </div>
      <div class="side">
        ${panel("slots-h", `Slots after step ${step.step}`, slotTable(app, episode, step))}
        ${panel("events-h", "Events", events(app, episode))}
      </div>
    </div>`;
}

/** Rewards of later steps that this step has caused. */
function laterEntries(step) {
  return html`<h3>Paid later for this step</h3>
    <ul class="list">
      ${step.later.map(
        (entry) => html`<li>${stepLink(entry.step, `step ${entry.step}`, "clock")} ${words(entry.source)}
          <b class="number">${signed(entry.amount, 4)}</b> <span class="soft">${entry.reason ?? ""}</span></li>`,
      )}
    </ul>`;
}

function slotTable(app, episode, step) {
  return html`<div class="scroll" tabindex="0" role="group" aria-label="Slots"><table class="full">
    <thead><tr><th scope="col">slot</th><th scope="col">seed</th><th scope="col" class="n">amplitude</th>
      <th scope="col" class="n">contribution</th><th scope="col" class="n">parameters</th></tr></thead>
    <tbody>${episode.slots.map((name) => {
      const slot = step.slots?.[name];
      if (!slot)
        return html`<tr><th scope="row">${name}</th><td class="soft">empty</td><td></td><td></td><td></td>
        </tr>`;
      return html`<tr><th scope="row">${name}</th>
        <td><span class="cell">${stage(slot.stage)} <a href=${seedLink(app.run, episode.episode, slot.seed)}>
        ${slot.blueprint ?? "?"}</a> <span class="soft">${words(slot.stage).toLowerCase()}</span></span></td>
        <td class="n">${fixed(slot.alpha, 2)}</td><td class="n">${contribution(slot)}</td>
        <td class="n">${count(slot.parameters)}</td></tr>`;
    })}</tbody>
  </table></div>`;
}

function attribution(episode) {
  const record = episode.attribution;
  if (!record)
    return empty(
      episode.live
        ? "The episode is in play; its seeds are measured at its end."
        : "Attribution was not measured: no seed was active at the end.",
    );
  const pairs = (record.pairs ?? []).filter((pair) => known(pair.interaction_pp));
  return html`<p class="soft small">
    ${record.method === "exact" ? "Shapley values from every coalition."
      : `Means over ${count(record.orders)} random orders.`}</p>
    <div class="scroll" tabindex="0" role="group" aria-label="Attribution"><table class="full">
      <thead><tr><th scope="col">slot</th><th scope="col" class="n">Shapley value</th>
        <th scope="col" class="n">leave one out</th></tr></thead>
      <tbody>${record.slots.map(
        (slot) => html`<tr><th scope="row">${slot.slot}</th>
        <td class="n">${withError(slot.shapley_pp, slot.shapley_error_pp)}</td>
        <td class="n">${points(slot.leave_one_out_pp, "not measured")}</td></tr>`,
      )}</tbody>
    </table></div>
    ${pairs.length ? facts(pairs.map((pair) => [`${pair.first} with ${pair.second}`,
      `interaction ${points(pair.interaction_pp)}`])) : nothing}
    ${coalitions(episode.counterfactual)}`;
}

/** Accuracy of the measured subsets of the seeds. */
function coalitions(record) {
  if (!record?.coalitions?.length) return nothing;
  const rows = [...record.coalitions].sort((a, b) => a.members.length - b.members.length);
  return html`<details>
    <summary>Accuracy of ${rows.length} subsets of the seeds, on ${count(record.examples)} examples</summary>
    ${facts(rows.map((row) => [row.members.join(", ") || "no seed", accuracy(row.accuracy_pp, "not measured")]))}
  </details>`;
}

function events(app, episode) {
  const lines = [
    ...(episode.transitions ?? []).map((record) => ({ step: record.step, text: transition(app, episode, record) })),
    ...(episode.gates ?? []).filter((gate) => !gate.passed).map((gate) => ({ step: gate.step, text: refusal(gate) })),
    ...(episode.vetoes ?? []).map((veto) => ({
      step: veto.step,
      text: html`${veto.slot}: germination vetoed, ${veto.reason} ${short(veto.value)} over ${short(veto.limit)}`,
    })),
  ].sort((a, b) => a.step - b.step);
  if (!lines.length)
    return empty(
      "No seed has changed its stage.",
      episode.live ? "Events are in the log when the round has ended." : nothing,
    );
  return html`<div class="scroll" tabindex="0" role="group" aria-label="Events"><ul class="list">
    ${lines.map((line) => html`<li>${stepLink(line.step, `step ${line.step}`, "clock")} ${line.text}</li>`)}
  </ul></div>`;
}

function transition(app, episode, record) {
  const name = record.seed
    ? html`<a href=${seedLink(app.run, episode.episode, record.seed)}>
    ${record.blueprint ?? record.seed}</a>`
    : (record.blueprint ?? "");
  return html`${record.slot} ${stage(record.to)} ${words(record.to).toLowerCase()} ${name} <span class="soft">by
    ${record.initiator}${record.reason ? `, ${words(record.reason)}` : ""}</span>`;
}

function refusal(gate) {
  const failed = gate.checks.filter((check) => !check.passed);
  return html`${gate.slot} gate ${gate.gate} refused:
    ${failed.map((check) => `${words(check.name)} ${short(check.value, 3,
      "unknown")} (needed ${short(check.threshold)})`).join(", ")}`;
}

function allSteps(episode, present) {
  return html`<div class="scroll" tabindex="0" role="group" aria-label="All steps"><table class="full">
    <thead><tr><th scope="col">step</th><th scope="col">operation</th><th scope="col" class="n">accuracy</th>
      <th scope="col" class="n">reward</th><th scope="col" class="n">growth</th><th scope="col">slots</th></tr></thead>
    <tbody>${episode.steps.map(
      (step) => html`<tr class=${step.step === present.step ? "chosen" : ""}>
      <th scope="row">${stepLink(step.step, step.step)}</th>
      <td>${operation(step.operation, step.success, step.slot)}</td><td class="n">${accuracy(step.val_accuracy_pp)}</td>
      <td class="n">${signed(step.reward, 4, "not finite")}</td><td class="n">${growth(step.growth_ratio)}</td>
      <td>${Object.entries(step.slots ?? {}).map(([name, slot]) => html`<span class="cell">${name}
        ${stage(slot.stage)}</span> `)}</td></tr>`,
    )}</tbody>
  </table></div>`;
}
