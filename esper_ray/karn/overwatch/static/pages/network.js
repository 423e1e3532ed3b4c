// The grown network: layers of the host in order, slots between them, seeds as blocks; a slider over the steps.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { apiLink, choose, chosen, chosenNumber } from "../state/address.js";
import {
  choices, contribution, empty, episodeLink, figures, panel, seedLink, shareBar, stage,
} from "../parts/elements.js";
import { accuracy, count, fixed, growth } from "../numbers.js";
import { stageKey } from "../charts/matrix.js";
import { presentStep, stepper } from "../parts/stepper.js";
import { fetchJson } from "../state/transport.js";
import { words } from "../words.js";

export const reloads = ["episode"];
const EVERY = 1000; // milliseconds between two requests for an episode in play

/** The newest episode of the environment with the lowest number, unless one is chosen. */
function presentEpisode(app) {
  const wanted = chosenNumber("episode");
  if (wanted !== null) return wanted;
  const environments = Object.values(app.sections.environments ?? {}).sort((a, b) => a.env - b.env);
  app.memory.episode ??= environments[0]?.episode ?? null;
  return app.memory.episode;
}

export async function load(app, signal) {
  if (app.feed.version === null) await app.opened;
  const episode = presentEpisode(app);
  const [network, own] = await Promise.all([
    fetchJson(apiLink(["runs", app.run, "network"], { episode }), { signal }),
    episode === null ? null : fetchJson(apiLink(["runs", app.run, "episodes", episode]), { signal }),
  ]);
  return { network, episode: own };
}

export function changed(app, names) {
  if (app.data && !app.data.episode && names.includes("environments")) app.load();
  if (!app.data?.episode?.live || app.memory.waits || !names.includes("environments")) return;
  app.memory.waits = true;
  setTimeout(() => {
    app.memory.waits = false;
    app.load();
  }, EVERY);
}

export function view(app) {
  const { network, episode } = app.data;
  const steps = episode?.steps ?? [];
  const step = steps.length ? presentStep(steps) : null;
  const asTable = chosen("as") === "table";
  return html`<div class="stack">
    <div class="head"><h1>Network</h1>
      ${episode ? html`<span class="facts">environment ${episode.env},
        <a href=${episodeLink(app.run, episode.episode, step?.step)}>episode ${episode.episode}</a>, round
          ${episode.round + 1}</span>` : nothing}</div>
    ${tools(app, episode)}
    ${
      step
        ? html`${figures([
            ["parameters", count(step.total_parameters)],
            ["growth", growth(step.growth_ratio)],
            ["accuracy", accuracy(step.val_accuracy_pp)],
            ["fossilized seeds only", accuracy(step.committed_accuracy_pp)],
          ])}${stepper(steps, step)}`
        : nothing
    }
    ${
      network.recorded === false
        ? html`<p class="soft">The layers of the host are not recorded by the version of this run; its slots are shown
          alone.</p>`
        : nothing
    }
    ${panel("network-h", "Layers and slots", asTable ? table(app, network, episode, step)
      : blocks(app, network, episode, step))}
    ${stageKey()}
  </div>`;
}

function tools(app, episode) {
  const environments = Object.values(app.sections.environments ?? {}).sort((a, b) => a.env - b.env);
  const number = episode?.episode;
  return html`<div class="tools">
    <label>Episode <select @change=${(event) => choose({ episode: event.target.value, step: null })}>
      ${environments.some((env) => env.episode === number) || number === undefined ? nothing
        : html`<option value=${number} selected>episode ${number}</option>`}
      ${environments.map((env) => html`<option value=${env.episode} .selected=${env.episode === number}>environment
        ${env.env}: episode ${env.episode}</option>`)}
    </select></label>
    ${choices(
      "Form",
      "as",
      [
        [null, "blocks"],
        ["table", "table"],
      ],
      chosen("as") || null,
    )}
  </div>`;
}

/** Layers with parameters or a slot; without recorded layers the slots alone. */
function rowsOf(app, network, all) {
  const layers = network.layers ?? [];
  if (layers.length) return all ? layers : layers.filter((layer) => layer.parameters || layer.slot);
  return (app.sections.facts?.slots ?? []).map((slot) => ({ name: null, slot }));
}

function blocks(app, network, episode, step) {
  const rows = rowsOf(app, network, chosen("all") === "1");
  if (!rows.length) return empty("Neither layers nor slots of this run are recorded.");
  const hidden = (network.layers ?? []).length - rows.length;
  return html`<ol class="network">
      ${rows.map(
        (layer) => html`${
          layer.name === null
            ? nothing
            : html`<li>
        <div class="layer"><b>${layer.name}</b> <span>${layer.module}</span>
          <span class="soft">${(layer.shape ?? []).join(" x ") || "shape unknown"}</span><span
            class="size">${layer.parameters ? `${count(layer.parameters)} parameters`
              : "no parameters"}</span></div></li>`
        }
        ${layer.slot ? html`<li>${slotBlock(app, episode, layer.slot, step?.slots?.[layer.slot])}</li>` : nothing}`,
      )}
    </ol>
    ${
      hidden > 0
        ? html`<p>
      <button type="button" @click=${() => choose({ all: "1" })}>Show ${hidden} layers without parameters</button></p>`
        : nothing
    }
    ${
      chosen("all") === "1"
        ? html`<p>
      <button type="button" @click=${() => choose({ all: null })}>Hide layers without parameters</button></p>`
        : nothing
    }`;
}

function slotBlock(app, episode, name, slot) {
  if (!slot)
    return html`<div class="slot"><span class="line"><b>${name}</b> <span class="soft">empty slot</span></span>
    </div>`;
  return html`<div class="slot taken ${slot.stage.toLowerCase()}">
    <span class="line"><b>${name}</b> ${stage(slot.stage)} <a href=${seedLink(app.run, episode.episode, slot.seed)}>
      ${slot.blueprint ?? "?"}</a>
      <span>${words(slot.stage).toLowerCase()}</span><span class="soft">
        ${count(slot.parameters)} parameters</span></span>
    <span class="line"><span>amplitude ${fixed(slot.alpha, 2)}</span>
      ${shareBar(slot.alpha)}<span>contribution ${contribution(slot)}</span></span>
  </div>`;
}

function table(app, network, episode, step) {
  const rows = rowsOf(app, network, true);
  return html`<div class="scroll tall" tabindex="0" role="group" aria-label="Layers and slots"><table class="full">
    <thead><tr><th scope="col">layer or slot</th><th scope="col">module or blueprint</th><th scope="col">output</th>
      <th scope="col" class="n">parameters</th><th scope="col">stage</th><th scope="col" class="n">amplitude</th>
      <th scope="col" class="n">contribution</th></tr></thead>
    <tbody>${rows.flatMap((layer) => [
      layer.name === null
        ? nothing
        : html`<tr><th scope="row">${layer.name}</th><td>${layer.module}</td>
        <td>${(layer.shape ?? []).join(" x ") || "-"}</td><td class="n">${count(layer.parameters)}</td><td></td>
        <td></td><td></td></tr>`,
      layer.slot ? slotRow(app, episode, layer.slot, step?.slots?.[layer.slot]) : nothing,
    ])}</tbody></table></div>`;
}

function slotRow(app, episode, name, slot) {
  if (!slot)
    return html`<tr><th scope="row">slot ${name}</th><td class="soft">empty</td><td></td><td></td><td></td>
    <td></td><td></td></tr>`;
  return html`<tr><th scope="row">slot ${name}</th>
    <td><a href=${seedLink(app.run, episode.episode, slot.seed)}>${slot.blueprint ?? "?"}</a></td><td></td>
    <td class="n">${count(slot.parameters)}</td><td>${stage(slot.stage)} ${words(slot.stage).toLowerCase()}</td>
    <td class="n">${fixed(slot.alpha, 2)}</td><td class="n">${contribution(slot)}</td></tr>`;
}
