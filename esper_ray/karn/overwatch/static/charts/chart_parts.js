// Parts of a chart: colors, ranges, key, marks, and what it shows in words.

import { html, nothing, svg } from "../vendor/lit-html/lit-html.js";
import { known, short } from "../numbers.js";
import { DASHES } from "../words.js";

export const ROW = 15; // height of a row of marks
export const FONT = '11px system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif';
export const MOST_ROWS = 500; // of the table of numbers

const probe = document.createElement("span");

/** A color of the present scheme, as the canvas needs it. */
export function color(name) {
  if (!probe.isConnected) {
    probe.hidden = true;
    document.body.append(probe);
  }
  probe.style.color = `var(--${name === "g" ? "grey" : name.length > 1 ? name : `c${name}`})`;
  return getComputedStyle(probe).color;
}

export function faint(rgb) {
  return rgb.replace("rgb(", "rgba(").replace(")", ", 0.18)");
}

/** What makes a new plot necessary when it changes. */
export function shape(spec) {
  const styles = spec.series.map((s) => [s.color, s.dash, s.thin]);
  return JSON.stringify([styles, (spec.bands ?? []).length, (spec.marks ?? []).length, spec.xs.length <= 40]);
}

export function valueRange(spec, low, high) {
  const levels = (spec.levels ?? []).map((line) => line.value).filter(known);
  const values = [low, high, ...levels, spec.floor, spec.top].filter(known);
  if (!values.length) return [0, 1];
  let [least, greatest] = [Math.min(...values), Math.max(...values)];
  if (greatest - least < 1e-9 * Math.max(1, Math.abs(greatest))) {
    const half = 0.5 * (Math.abs(greatest) || 1);
    [least, greatest] = [least - half, greatest + half];
  }
  const room = 0.05 * (greatest - least);
  return [
    known(spec.floor) && least >= spec.floor ? spec.floor : least - room,
    known(spec.top) && greatest <= spec.top ? spec.top : greatest + room,
  ];
}

/** Text of a tick, without digits that are only rounding errors. */
export function tickText(value) {
  if (!known(value)) return "";
  const plain = String(Number(value.toPrecision(6)));
  return plain.length <= 7 ? plain : value.toExponential(1);
}

export function axisSize(values) {
  const longest = Math.max(2, ...(values ?? []).map((value) => String(value ?? "").length));
  return 14 + 6.5 * longest;
}

/** Horizontal lines in the plot, and rows of marks below it. */
export function drawExtras(plot, spec, ink) {
  const { ctx, bbox } = plot;
  const ratio = devicePixelRatio;
  ctx.save();
  for (const line of spec.levels ?? []) {
    const y = plot.valToPos(line.value, "y", true);
    ctx.beginPath();
    ctx.strokeStyle = color(line.color ?? "2");
    ctx.lineWidth = 1.5 * ratio;
    ctx.setLineDash(DASHES[line.dash ?? 1].map((length) => length * ratio));
    ctx.moveTo(bbox.left, y);
    ctx.lineTo(bbox.left + bbox.width, y);
    ctx.stroke();
  }
  ctx.setLineDash([]);
  ctx.font = FONT.replace("11px", `${11 * ratio}px`);
  ctx.fillStyle = ink;
  ctx.strokeStyle = ink;
  ctx.lineWidth = 1.5 * ratio;
  (spec.marks ?? []).forEach((mark, row) => {
    const middle = bbox.top + bbox.height + (6 + ROW * row + ROW / 2) * ratio;
    ctx.textAlign = "right";
    ctx.textBaseline = "middle";
    ctx.fillText(mark.letter, bbox.left - 6 * ratio, middle);
    ctx.lineWidth = (mark.at.length > bbox.width / 6 / ratio ? 1 : 1.5) * ratio;
    for (const x of new Set(mark.at)) {
      const left = plot.valToPos(x, "x", true);
      if (left < bbox.left || left > bbox.left + bbox.width) continue;
      ctx.beginPath();
      ctx.moveTo(left, middle - 4 * ratio);
      ctx.lineTo(left, middle + 4 * ratio);
      ctx.stroke();
    }
  });
  ctx.restore();
}

export function lineSample({ color: name = "1", dash = 0, thin = false }) {
  const dashes = DASHES[dash].join(" ");
  return html`<svg width="28" height="10" aria-hidden="true">
    ${svg`<line class="s${name} ${thin ? "thinner" : ""}" x1="0" y1="5" x2="28" y2="5"
      stroke-dasharray=${dashes || nothing}></line>`}
  </svg>`;
}

export function bandSample({ color: name = "1" }) {
  return html`<svg width="28" height="10" aria-hidden="true">
    <rect class="f${name} band" width="28" height="10"></rect></svg>`;
}

/** What the chart shows, in sentences. */
export function alternative(spec) {
  const across = spec.across ?? "round";
  const sentences = spec.series.flatMap((series) => {
    const places = series.values.map((_, place) => place).filter((place) => known(series.values[place]));
    if (!places.length) return [];
    const form = series.form ?? short;
    const [first, last] = [places[0], places.at(-1)];
    return [
      `${series.name}: ${form(series.values[first])} in ${across} ${spec.xs[first]}, ` +
        `${form(series.values[last])} in ${across} ${spec.xs[last]}.`,
    ];
  });
  return sentences.join(" ");
}
