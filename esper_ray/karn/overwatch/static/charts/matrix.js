// Environments by slots. Rows are sorted at the moment of the choice and hold still afterwards.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { repeat } from "../vendor/lit-html/directives/repeat.js";
import { chosen } from "../state/address.js";
import { episodeLink, operation, slotCell, sortHeading } from "../parts/elements.js";
import { fixed, growth, signed } from "../numbers.js";
import { STAGES } from "../words.js";

const MOST_NAMED = 4; // slots up to which cells have the name of the blueprint
const COLUMNS = [
  { key: "env", title: "env", sortable: true, number: true, of: (env) => env.env },
  { key: "episode", title: "episode", number: true, of: (env) => env.episode },
  { key: "step", title: "step", sortable: true, number: true, of: (env) => env.step },
  { key: "accuracy", title: "accuracy, %", sortable: true, number: true, of: (env) => env.val_accuracy_pp },
  { key: "best", title: "best", sortable: true, number: true, of: (env) => env.best_accuracy_pp },
  { key: "growth", title: "growth", sortable: true, number: true, of: (env) => env.growth_ratio },
  { key: "return", title: "return", sortable: true, number: true, of: (env) => env.episode_return },
];

/** Numbers of the environments in the chosen order; the order of `app.memory` holds until another one is chosen. */
function ordered(app, environments, sort, descending) {
  const column = COLUMNS.find((candidate) => candidate.key === sort) ?? COLUMNS[0];
  const direction = descending ? -1 : 1;
  const names = environments.map((env) => env.env);
  const known = app.memory.order;
  if (known && known.length === names.length && names.every((name) => known.includes(name))) return known;
  const value = (env) => column.of(env) ?? -Infinity;
  app.memory.order = [...environments]
    .sort((a, b) => direction * (value(a) - value(b)) || a.env - b.env)
    .map((env) => env.env);
  return app.memory.order;
}

export function matrix(app, environments) {
  const sort = chosen("sort", "env");
  const descending = chosen("descending") === "1";
  const slots = app.sections.facts?.slots ?? [];
  const byNumber = new Map(environments.map((env) => [env.env, env]));
  return html`<div class="scroll" tabindex="0" role="group" aria-label="Environments">
      <table class="matrix">
        <thead>
          <tr>
            ${COLUMNS.map((column) => sortHeading(column, sort, descending))}
            ${slots.map((name) => html`<th scope="col">${name}</th>`)}
            <th scope="col">last operation</th>
          </tr>
        </thead>
        <tbody>
          ${repeat(
            ordered(app, environments, sort, descending),
            (number) => number,
            (number) => row(app, byNumber.get(number), slots),
          )}
        </tbody>
      </table>
    </div>
    ${stageKey()}`;
}

function row(app, env, slots) {
  const address = episodeLink(app.run, env.episode);
  return html`<tr>
    <th scope="row" class="n">${env.env}</th>
    <td class="n"><a href=${address} aria-label="episode ${env.episode} of environment ${env.env}">
    ${env.episode}</a></td>
    <td class="n">${env.step}</td>
    <td class="n"><b>${fixed(env.val_accuracy_pp, 1)}</b></td>
    <td class="n">${fixed(env.best_accuracy_pp, 1)}</td>
    <td class="n">${growth(env.growth_ratio)}</td>
    <td class="n">${signed(env.episode_return, 2)}</td>
    ${slots.map((name) => html`<td>${slotCell(env.slots?.[name], slots.length > MOST_NAMED)}</td>`)}
    <td>${env.quarantined ? html`<b>QUARANTINED</b>` : env.rollback ? html`<b>ROLLED BACK</b>`
      : operation(env.operation, env.success)}${env.live ? nothing : html` <span class="soft">(over)</span>`}</td>
  </tr>`;
}

/** Letters of the stages. */
export function stageKey(present = Object.keys(STAGES)) {
  return html`<ul class="key">
    ${present.map(
      (name) => html`<li><span class="stage ${name.toLowerCase()}" aria-hidden="true">${STAGES[name][0]}</span>
        ${name.toLowerCase()}</li>`,
    )}
  </ul>`;
}
