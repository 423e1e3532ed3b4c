// An episode as lanes over its steps: accuracy against the control, slots, gates, operations, reward; one cursor.

import { html, nothing, render, svg } from "../vendor/lit-html/lit-html.js";
import { fixed, known, signed } from "../numbers.js";
import { DASHES, OPERATIONS, REFUSED, STAGES } from "../words.js";

const LEFT = 74;
const RIGHT = 10;
const PLOT = 130; // height of the accuracy
const LANE = 24;
const REWARD = 44; // height of the rewards
const LETTER = 7.5; // width of a letter, at most

/** `episode` is the answer of the API and is not changed in place; `step` is the step under the cursor. */
class EsperLanes extends HTMLElement {
  #episode = null;
  #step = null;
  #wide = 0;

  set episode(episode) {
    this.#episode = episode;
    this.#draw();
  }

  set step(step) {
    if (step === this.#step) return;
    this.#step = step;
    this.#draw();
  }

  connectedCallback() {
    this.size = new ResizeObserver(() => requestAnimationFrame(() => this.#resized()));
    this.size.observe(this);
  }

  #resized() {
    const wide = Math.floor(this.clientWidth);
    if (wide && wide !== this.#wide) {
      this.#wide = wide;
      this.#draw();
    }
  }

  disconnectedCallback() {
    this.size.disconnect();
  }

  #draw() {
    if (!this.#wide || !this.#episode?.steps.length) return;
    render(
      picture(this.#episode, this.#step, this.#wide, (step) => this.#chose(step)),
      this,
    );
  }

  #chose(step) {
    this.dispatchEvent(new CustomEvent("step", { detail: step }));
  }
}

function scale(steps, wide) {
  const [first, last] = [steps[0].step, steps.at(-1).step];
  const span = last - first + 1;
  const room = (wide - LEFT - RIGHT) / span;
  return { first, last, room, at: (step) => LEFT + (step - first + 0.5) * room };
}

function picture(episode, present, wide, chose) {
  const { steps, slots } = episode;
  const across = scale(steps, wide);
  const top = PLOT + 14;
  const events = top + LANE * slots.length;
  const operations = events + LANE;
  const rewards = operations + LANE;
  const height = rewards + REWARD + 34;
  const picked = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    const step = Math.round((event.clientX - box.left - LEFT) / across.room + across.first - 0.5);
    chose(Math.max(across.first, Math.min(across.last, step)));
  };
  const drags = (event) => event.buttons === 1 && picked(event);
  return html`<svg class="lanes" width=${wide} height=${height} viewBox="0 0 ${wide} ${height}" role="img"
    aria-label=${alternative(episode)} @pointerdown=${picked} @pointermove=${drags}>
    ${accuracyPlot(episode, across, wide)}
    ${slots.map(
      (slot, row) => svg`<text class="ink" x=${LEFT - 6} y=${top + LANE * row + 16} text-anchor="end">
      ${slot}</text>
      <line class="axis" x1=${LEFT} x2=${wide - RIGHT} y1=${top + LANE * (row + 1)} y2=${top + LANE * (row + 1)}></line>
      ${runs(steps, slot).map((run) => block(run, across, top + LANE * row))}`,
    )}
    ${gateRow(episode, across, events)} ${operationRow(steps, across, operations)}
      ${rewardRow(steps, across, rewards, wide)}
    ${ticks(across, height, wide)}
    ${known(present) ? cursor(across, present, height) : nothing}
  </svg>`;
}

function cursor(across, step, height) {
  const width = Math.max(3, across.room);
  return svg`<g pointer-events="none">
    <rect class="cursor-fill" x=${across.at(step) - width / 2} y="4" width=${width} height=${height - 34}></rect>
    <line class="cursor" x1=${across.at(step)} x2=${across.at(step)} y1="4" y2=${height - 30}></line></g>`;
}

function points(pairs, across, up) {
  const pieces = [[]];
  for (const [step, value] of pairs) {
    if (!known(value)) pieces.push([]);
    else pieces.at(-1).push(`${across.at(step).toFixed(1)},${up(value).toFixed(1)}`);
  }
  return pieces.filter((piece) => piece.length);
}

function line(pairs, across, up, color, dash) {
  return points(pairs, across, up).map((piece) =>
    piece.length > 1
      ? svg`<polyline class="s${color}" stroke-dasharray=${DASHES[dash].join(" ") || nothing}
        points=${piece.join(" ")}></polyline>`
      : svg`<circle class="f${color}" r="2.5" cx=${piece[0].split(",")[0]} cy=${piece[0].split(",")[1]}></circle>`,
  );
}

/** Accuracy, that of fossilized seeds alone, and the control, by step. */
export function accuracyCurves(episode) {
  const { steps, control_curve_pp: curve } = episode;
  return {
    own: steps.map((step) => [step.step, step.val_accuracy_pp]),
    committed: steps.map((step) => [step.step, step.committed_accuracy_pp]),
    control: steps.map((step) => [step.step, curve?.[step.step] ?? null]),
  };
}

function accuracyPlot(episode, across, wide) {
  const { own, committed, control } = accuracyCurves(episode);
  const values = [...own, ...committed, ...control].map(([, value]) => value).filter(known);
  if (!values.length) return svg`<text x=${LEFT} y="30">Accuracy was not measured.</text>`;
  const [low, high] = roundedRange(Math.min(...values), Math.max(...values));
  const up = (value) => 10 + (PLOT - 14) * (1 - (value - low) / (high - low));
  const lines = [0, 0.25, 0.5, 0.75, 1].map((share) => low + share * (high - low));
  return svg`${lines.map(
    (value) => svg`<line class="axis" x1=${LEFT} x2=${wide - RIGHT} y1=${up(value)} y2=${up(value)}></line>
      <text x=${LEFT - 6} y=${up(value) + 4} text-anchor="end">${fixed(value, high - low < 8 ? 1 : 0)} %</text>`,
  )}
    ${line(control, across, up, "2", 1)} ${line(committed, across, up, "3", 2)} ${line(own, across, up, "1", 0)}`;
}

/** A range around values that four equal parts divide roundly. */
function roundedRange(low, high) {
  const span = Math.max(high - low, 1);
  const step = [0.5, 1, 2.5, 5, 10, 25].find((size) => 4 * size >= span + size * 0.2) ?? 25;
  const first = step * Math.floor(low / step);
  return first + 4 * step >= high ? [first, first + 4 * step] : [first, first + 4 * step * 2];
}

/** Times of a slot in which seed and stage stay the same. */
export function runs(steps, slot) {
  const found = [];
  for (const { step, slots } of steps) {
    const report = slots?.[slot];
    const last = found.at(-1);
    if (!report) continue;
    if (last && last.last === step - 1 && last.seed === report.seed && last.stage === report.stage) last.last = step;
    else found.push({ first: step, last: step, seed: report.seed, stage: report.stage, blueprint: report.blueprint });
  }
  const longest = new Map();
  for (const run of found) {
    const other = longest.get(run.seed);
    if (!other || run.last - run.first > other.last - other.first) longest.set(run.seed, run);
  }
  return found.map((run) => ({ ...run, named: longest.get(run.seed) === run }));
}

function block(run, across, y) {
  const [letter] = STAGES[run.stage] ?? ["?"];
  const left = across.at(run.first) - across.room / 2;
  const width = Math.max(1, across.room * (run.last - run.first + 1) - 1);
  const whole = run.named ? `${letter} ${run.blueprint ?? "?"}` : letter;
  const text = whole.length * LETTER + 4 <= width ? whole : letter.length * LETTER + 2 <= width ? letter : "";
  return svg`<rect class="block fill-${run.stage.toLowerCase()}" x=${left} y=${y + 2} width=${width} height=${LANE - 5}
    rx="2">
      <title>${run.blueprint ?? "?"} ${run.stage.toLowerCase()}, steps ${run.first} to ${run.last}</title></rect>
    ${text ? svg`<text class="on" x=${left + 3} y=${y + 16} pointer-events="none">${text}</text>` : nothing}`;
}

/** Gates, vetoes and the rollback: a ring passed, a disk refused, V a veto, R the rollback. */
function gateRow(episode, across, y) {
  const middle = y + LANE / 2;
  return svg`<text class="ink" x=${LEFT - 6} y=${y + 16} text-anchor="end">gates</text>
    ${(episode.gates ?? []).map(
      (gate) => svg`<circle class=${gate.passed ? "gate-passed" : "gate-refused"} r="3.5"
      cx=${across.at(gate.step)} cy=${middle}><title>gate ${gate.gate} of ${gate.slot}
        ${gate.passed ? "passed" : "refused"}, step ${gate.step}</title></circle>`,
    )}
    ${(episode.vetoes ?? []).map((veto) => svg`<text class="ink" x=${across.at(veto.step)} y=${y + 16}
      text-anchor="middle">V</text>`)}
    ${episode.rollback ? svg`<text class="ink" x=${across.at(episode.rollback.step ?? across.last)} y=${y + 16}
      text-anchor="middle">R</text>` : nothing}`;
}

function operationRow(steps, across, y) {
  const shown = steps.filter((step) => step.operation && step.operation !== "WAIT");
  return svg`<text class="ink" x=${LEFT - 6} y=${y + 16} text-anchor="end">operation</text>
    ${shown.map((step) => {
      const letter = step.success === false ? REFUSED : (OPERATIONS[step.operation]?.[0] ?? "?");
      return across.room >= LETTER + 1
        ? svg`<text class="ink" x=${across.at(step.step)} y=${y + 16} text-anchor="middle">${letter}</text>`
        : svg`<line class="cursor" x1=${across.at(step.step)} x2=${across.at(step.step)} y1=${y + 6}
          y2=${y + 17}></line>`;
    })}`;
}

function rewardRow(steps, across, y, wide) {
  const amounts = steps.map((step) => step.reward).filter(known);
  const size = Math.max(1e-9, ...amounts.map(Math.abs));
  const middle = y + REWARD / 2 + 4;
  const width = Math.max(1, across.room - 2);
  return svg`<text class="ink" x=${LEFT - 6} y=${middle - 2} text-anchor="end">reward</text>
    <text x=${LEFT - 6} y=${middle + 11} text-anchor="end">±${fixed(size, 2)}</text>
    <line class="axis" x1=${LEFT} x2=${wide - RIGHT} y1=${middle} y2=${middle}></line>
    ${steps
      .filter((step) => known(step.reward) && step.reward !== 0)
      .map((step) => {
        const height = Math.max(0.7, (Math.abs(step.reward) / size) * (REWARD / 2 - 2));
        return svg`<rect class=${step.reward < 0 ? "f2" : "f1"} x=${across.at(step.step) - width / 2} width=${width}
        y=${step.reward < 0 ? middle : middle - height} height=${height}><title>step ${step.step}:
          ${signed(step.reward, 4)}</title></rect>`;
      })}`;
}

function ticks(across, height, wide) {
  const wanted = Math.max(2, Math.floor((wide - LEFT) / 60));
  const step =
    [1, 2, 5, 10, 20, 50, 100, 200, 500].find((size) => (across.last - across.first) / size <= wanted) ?? 1000;
  const values = [];
  for (let value = Math.ceil(across.first / step) * step; value <= across.last; value += step) values.push(value);
  return svg`${values.map(
    (value) => svg`<text x=${across.at(value)} y=${height - 18} text-anchor="middle">
    ${value}</text>`,
  )}
    <text x=${(LEFT + wide - RIGHT) / 2} y=${height - 3} text-anchor="middle">step</text>`;
}

function alternative(episode) {
  const slots = episode.slots.map((slot) => {
    const parts = runs(episode.steps, slot).map(
      (run) => `${run.blueprint} ${run.stage.toLowerCase()} steps ${run.first} to ${run.last}`,
    );
    return `Slot ${slot}: ${parts.join(", ") || "empty"}.`;
  });
  const length = `Episode ${episode.episode}, ${episode.steps.length} steps.`;
  return `${length} ${slots.join(" ")} The table below has every step.`;
}

customElements.define("esper-lanes", EsperLanes);
