// Means with intervals as rows of a picture, and points of two quantities.

import { html, nothing, svg } from "../vendor/lit-html/lit-html.js";
import { known, signed } from "../numbers.js";

/** Range that all intervals fit in. */
export function rangeOf(rows, zero = true) {
  const values = rows.flatMap((row) => [row.low_pp, row.high_pp, row.mean_pp]).filter(known);
  if (!values.length) return [0, 1];
  const [low, high] = [Math.min(...values, ...(zero ? [0] : [])), Math.max(...values, ...(zero ? [0] : []))];
  const room = 0.05 * (high - low || 1);
  return [low - room, high + room];
}

/** A mean and its interval on a common scale. */
export function intervalBar(row, [low, high], zero = true) {
  if (!known(row.mean_pp)) return nothing;
  const at = (value) => (100 * (value - low)) / (high - low);
  return html`<svg class="bar interval" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">
    ${zero && low < 0 && high > 0 ? svg`<line class="zero" x1=${at(0)} x2=${at(0)} y1="0" y2="10"></line>` : nothing}
    ${known(row.low_pp)
      ? svg`<rect class="gain" opacity="0.35" x=${at(row.low_pp)} y="2.5" height="5"
        width=${Math.max(0.5, at(row.high_pp) - at(row.low_pp))}></rect>` : nothing}
    <rect class="mean" x=${at(row.mean_pp) - 0.5} y="0.5" height="9" width="1"></rect>
  </svg>`;
}

/** A mean with its interval; `form` writes a number. */
export function intervalText(row, form = (value) => signed(value, 1)) {
  if (!known(row.mean_pp)) return "not measured";
  const ends = known(row.low_pp) ? ` [${form(row.low_pp)}, ${form(row.high_pp)}]` : "";
  return `${form(row.mean_pp)}${ends}`;
}

const [WIDE, HIGH, LEFT, BOTTOM] = [560, 260, 56, 36];

function ticksOf(low, high) {
  const rough = (high - low) / 4 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const ticks = [];
  for (let value = Math.ceil(low / step) * step; value <= high + 1e-9; value += step) ticks.push(value);
  return ticks;
}

/** Points of two quantities; each has the number of its row in the table. */
export function scatter(points, { across, up, label, form = String }) {
  const shown = points.filter((point) => known(point.x) && known(point.y));
  if (!shown.length) return nothing;
  const padded = (values) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const room = 0.08 * (high - low || Math.abs(high) || 1);
    return [low - room, high + room];
  };
  const [xs, ys] = [padded(shown.map((point) => point.x)), padded(shown.map((point) => point.y))];
  const atX = (value) => LEFT + ((WIDE - LEFT - 12) * (value - xs[0])) / (xs[1] - xs[0]);
  const atY = (value) => HIGH - BOTTOM - ((HIGH - BOTTOM - 26) * (value - ys[0])) / (ys[1] - ys[0]);
  return html`<svg class="scatter" viewBox="0 0 ${WIDE} ${HIGH}" role="img" aria-label=${label}>
    ${ticksOf(...ys).map(
      (value) => svg`<line class="axis" x1=${LEFT} x2=${WIDE - 12} y1=${atY(value)} y2=${atY(value)}></line>
      <text x=${LEFT - 6} y=${atY(value) + 4} text-anchor="end">${form(value)}</text>`,
    )}
    ${ticksOf(...xs).map(
      (value) => svg`<text x=${atX(value)} y=${HIGH - BOTTOM + 15} text-anchor="middle">
      ${form(value)}</text>`,
    )}
    <text x=${(LEFT + WIDE) / 2} y=${HIGH - 4} text-anchor="middle">${across}</text>
    <text x="4" y="10">${up}</text>
    ${shown.map(
      (point) => svg`<circle class="f1" cx=${atX(point.x)} cy=${atY(point.y)} r="3.5"><title>
      ${point.name}</title></circle>
      <text class="ink" x=${atX(point.x) + 6} y=${atY(point.y) + 4}>${point.mark}</text>`,
    )}
  </svg>`;
}
