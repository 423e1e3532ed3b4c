// Small parts that several pages show.

import { html, nothing, svg } from "../vendor/lit-html/lit-html.js";
import { addressWith, choose, link } from "../state/address.js";
import { accuracy, growth, known, points, withError } from "../numbers.js";
import { COOLDOWN, LEVELS, OPERATIONS, STAGES } from "../words.js";

/** Symbol and word of a level. */
export function level(name, text = null) {
  const [symbol, word] = LEVELS[name] ?? LEVELS.unknown;
  return html`<span class="level ${LEVELS[name] ? name : "unknown"}">${symbol} ${text ?? word}</span>`;
}

/** Letter of a stage on its color. */
export function stage(name) {
  const [letter, meaning] = STAGES[name] ?? ["?", `unknown stage ${name}`];
  return html`<abbr class="stage ${String(name).toLowerCase()}" title=${meaning}>${letter}</abbr>`;
}

/** A slot in a matrix: stage, blueprint, contribution. Compact cells have the blueprint in their title alone. */
export function slotCell(slot, compact = false) {
  if (!slot) return html`<span class="soft" title="empty">-<span class="gone"> empty</span></span>`;
  const value = COOLDOWN.has(slot.stage) ? "" : points(slot.contribution_pp, "");
  const name = slot.blueprint ?? "?";
  if (compact) {
    return html`<span class="cell" title="${name} ${value}">
      ${stage(slot.stage)} <span class="gone">${name}</span>
        <span class="soft">${value.replace(" pp", "")}</span></span>`;
  }
  return html`<span class="cell">${stage(slot.stage)} ${name} <span class="soft">${value}</span></span>`;
}

export function operation(name, success, slot = null) {
  if (!name) return html`<span class="soft">started</span>`;
  const text = OPERATIONS[name] ? name.replace("SET_ALPHA_TARGET", "SET_ALPHA") : name;
  const where = slot ? ` ${slot}` : "";
  if (success === false) return html`<span class="refused" title="without effect">${text}${where}!</span>`;
  return html`<span class=${name === "WAIT" ? "soft" : ""}>${text}${where}</span>`;
}

export function contribution(slot) {
  return withError(slot?.contribution_pp, slot?.contribution_error_pp);
}

/** What is missing, and what to do. */
export function empty(sentence, remedy = nothing) {
  return html`<div class="empty">
    <p>${sentence}</p>${remedy === nothing ? nothing : html`<p class="soft">${remedy}</p>`}</div>`;
}

/** A part of the page with its heading. */
export function panel(id, heading, content, note = nothing) {
  return html`<section class="panel" aria-labelledby=${id}>
    <h2 id=${id}>${heading}</h2>
    ${note === nothing ? nothing : html`<p class="soft small">${note}</p>`} ${content}
  </section>`;
}

/** Pairs of a name and a value. */
export function facts(rows) {
  return html`<dl class="facts">
    ${rows.map(([name, value]) => html`<dt>${name}</dt><dd>${value}</dd>`)}
  </dl>`;
}

export function figures(rows) {
  return html`<dl class="row">
    ${rows.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}
  </dl>`;
}

/** Links of which one is chosen, written into the address. */
export function choices(label, key, options, present) {
  return html`<nav class="choices" aria-label=${label}>
    ${options.map(
      ([value, text]) => html`<a
        href=${addressWith({ [key]: value })}
        aria-current=${value === present || (value === null && !present) ? "true" : nothing}
        @click=${(event) => followed(event, { [key]: value })}
        >${text}</a
      >`,
    )}
  </nav>`;
}

/** A click on a link that only changes a choice is done here; with a modifier the browser opens it. */
export function followed(event, changes, options = {}) {
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.button > 0) return;
  event.preventDefault();
  choose(changes, options);
}

/** A heading of a column that sorts. */
export function sortHeading(column, sort, descending) {
  const present = column.key === sort;
  const direction = descending ? "descending" : "ascending";
  if (!column.sortable) return html`<th scope="col" class=${column.number ? "n" : ""}>${column.title}</th>`;
  return html`<th scope="col" class=${column.number ? "n" : ""} aria-sort=${present ? direction : nothing}>
    <button
      type="button"
      @click=${() => choose({ sort: column.key, descending: (present ? !descending : column.number) ? "1" : null,
        offset: null })}
    >
      ${column.title}${present ? (descending ? " ↓" : " ↑") : ""}
    </button>
  </th>`;
}

/** A horizontal bar from zero. */
export function amountBar(value, least, greatest, start = 0) {
  const low = Math.min(0, least);
  const high = Math.max(0, greatest);
  const span = high - low || 1;
  const at = (amount) => (100 * (amount - low)) / span;
  const [left, right] = [at(Math.min(start, start + value)), at(Math.max(start, start + value))];
  return html`<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">
    <line class="zero" x1=${at(0)} x2=${at(0)} y1="0" y2="10"></line>
    <rect class=${value < 0 ? "loss" : "gain"} x=${left} y="1.5" height="7" width=${Math.max(0.6, right - left)}></rect>
  </svg>`;
}

/** A share in [0, 1] as a bar, with a floor that it should not fall below. */
export function shareBar(share, floor = null) {
  if (!known(share)) return nothing;
  const width = Math.max(0, Math.min(1, share)) * 100;
  const low = known(floor) && share < floor;
  return html`<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">
    <rect class="track" x="0" y="3.5" width="100" height="3"></rect>
    <rect class=${low ? "low" : "share"} x="0" y="1.5" width=${width} height="7"></rect>
    ${known(floor) ? svg`<line class="floor" x1=${100 * floor} x2=${100 * floor} y1="0" y2="10"></line>` : nothing}
  </svg>`;
}

/** The newest values as a small line. */
export function sparkline(values) {
  const shown = values.slice(-60);
  const measured = shown.filter(known);
  if (measured.length < 2) return nothing;
  const [low, high] = [Math.min(...measured), Math.max(...measured)];
  const pieces = [[]];
  shown.forEach((value, place) => {
    const x = (100 * place) / (shown.length - 1);
    if (!known(value)) pieces.push([]);
    else pieces.at(-1).push(`${x.toFixed(1)},${(18 - (16 * (value - low)) / (high - low || 1)).toFixed(1)}`);
  });
  return html`<svg class="spark" viewBox="0 0 100 20" preserveAspectRatio="none" aria-hidden="true">
    ${pieces.map((piece) => svg`<polyline class="s1" vector-effect="non-scaling-stroke"
      points=${piece.join(" ")}></polyline>`)}
  </svg>`;
}

/** Where a record belongs: round, environment, step. */
export function clock(record) {
  const pieces = [];
  if (known(record.round)) pieces.push(`r${record.round + 1}`);
  if (known(record.env)) pieces.push(`e${record.env}`);
  if (known(record.step)) pieces.push(`s${record.step}`);
  return html`<span class="clock">${pieces.join(" ")}</span>`;
}

/** A line of the log without the place at its beginning, which has a column of its own. */
export function withoutClock(text) {
  return String(text ?? "").replace(/^(?:r\d+ )?(?:e\d+ )?(?:s\d+ )?/, "");
}

export function episodeLink(run, episode, step = null) {
  return link(["runs", run, "episodes", episode], { step });
}

export function seedLink(run, episode, seed) {
  return link(["runs", run, "episodes", episode, "seeds", seed]);
}

export { accuracy, growth };
