// The step under the cursor of an episode: chosen through the address, moved by buttons and a slider.

import { html } from "../vendor/lit-html/lit-html.js";
import { addressWith, choose, chosenNumber } from "../state/address.js";
import { followed } from "./elements.js";

/** The chosen step, or the newest. */
export function presentStep(steps) {
  const wanted = chosenNumber("step");
  if (wanted === null) return steps.at(-1);
  const nearer = (best, step) => (Math.abs(step.step - wanted) < Math.abs(best.step - wanted) ? step : best);
  return steps.reduce(nearer);
}

export function stepper(steps, step) {
  const [first, last] = [steps[0].step, steps.at(-1).step];
  const go = (number) => choose({ step: Math.max(first, Math.min(last, number)) });
  const back = () => go(step.step - 1);
  const on = () => go(step.step + 1);
  const slid = (event) => go(Number(event.target.value));
  return html`<div class="stepper">
    <button type="button" ?disabled=${step.step <= first} @click=${back} aria-label="previous step">←</button>
    <input type="range" min=${first} max=${last} .value=${String(step.step)} aria-label="Step" @input=${slid} />
    <button type="button" ?disabled=${step.step >= last} @click=${on} aria-label="next step">→</button>
    <output>step ${step.step} of ${last}</output>
    <button type="button" @click=${() => choose({ step: null })}>Newest</button>
  </div>`;
}

/** A link that moves the cursor to a step. */
export function stepLink(step, content, style = "") {
  return html`<a class=${style} href=${addressWith({ step })} @click=${(event) => followed(event, { step })}>
    ${content}</a>`;
}
