// A chart over rounds, drawn by uPlot: zoomed through the address, thinned, drawn only in sight.

import uPlot from "../vendor/uplot/uPlot.esm.js";
import { html, nothing, render } from "../vendor/lit-html/lit-html.js";
import { choose, chosenZoom } from "../state/address.js";
import {
  FONT,
  MOST_ROWS,
  ROW,
  alternative,
  axisSize,
  bandSample,
  color,
  drawExtras,
  faint,
  lineSample,
  shape,
  tickText,
  valueRange,
} from "./chart_parts.js";
import { known, short } from "../numbers.js";
import { thinned } from "./thinning.js";
import { DASHES } from "../words.js";

const HEIGHT = 210;
/**
 * `spec` is an object that is not changed in place:
 * {key, title, unit, across, xs, series: [{name, values, color, dash, form}], bands: [{name, low, high, color}],
 *  marks: [{letter, name, at: [x]}], levels: [{name, value, color, dash}], floor, top, note, zooms}
 */
class EsperChart extends HTMLElement {
  #spec = null;
  #plot = null;
  #drawn = null; // spec that the plot shows
  #inSight = false;
  #wide = 0;
  #at = null; // index under the cursor
  #open = false; // whether the table of numbers is shown

  set spec(spec) {
    if (spec === this.#spec) return;
    this.#spec = spec;
    this.#show();
  }

  connectedCallback() {
    this.sight = new IntersectionObserver((entries) => {
      this.#inSight = entries.at(-1).isIntersecting;
      this.#draw();
    });
    this.size = new ResizeObserver(() => requestAnimationFrame(() => this.#resized()));
    this.onChoice = () => this.#draw(true);
    this.onScheme = () => this.#anew();
    document.addEventListener("choice", this.onChoice);
    document.addEventListener("scheme", this.onScheme);
    this.sight.observe(this);
    this.size.observe(this);
    if (this.#spec) this.#show();
  }

  #resized() {
    const holder = this.querySelector(".plot");
    const wide = holder ? Math.floor(holder.clientWidth) : 0;
    if (wide && wide !== this.#wide) {
      this.#wide = wide;
      this.#anew();
    }
  }

  disconnectedCallback() {
    this.sight.disconnect();
    this.size.disconnect();
    document.removeEventListener("choice", this.onChoice);
    document.removeEventListener("scheme", this.onScheme);
    this.#plot?.destroy();
    this.#plot = null;
  }

  #show() {
    if (!this.isConnected) return;
    this.#frame();
    this.#draw();
  }

  /** The parts around the plot: title, key, note, table. */
  #frame() {
    const spec = this.#spec;
    const measured = spec.series.some((series) => series.values.some(known));
    const body = measured
      ? html`${this.#key()}
          <div
            class="plot"
            tabindex="0"
            role="group"
            aria-roledescription="chart"
            aria-label=${`${spec.title}. ${alternative(spec)} Arrow keys read the values.`}
            @keydown=${(event) => this.#pressed(event)}
          ></div>
          <p class="gone" aria-live="polite"></p>
          ${spec.note ? html`<figcaption>${spec.note}</figcaption>` : nothing}
          <figcaption class="thin" hidden></figcaption>
          <details @toggle=${(event) => this.#toggled(event)}>
            <summary>Numbers</summary>
            ${this.#open ? this.#table() : nothing}
          </details>`
      : html`<p class="soft">${spec.missing ?? "No round has a value of this."}</p>`;
    render(html`<figure><h3>${spec.title}</h3>${body}</figure>`, this);
  }

  #toggled(event) {
    this.#open = event.target.open;
    this.#frame();
  }

  /** The key with the values under the cursor; without a cursor the newest one of each series. */
  #key() {
    const spec = this.#spec;
    const measured = spec.series.filter((series) => series.values.some(known));
    const places = measured.map((series) => this.#at ?? series.values.findLastIndex(known));
    const same = places.every((place) => place === places[0]);
    const at = same ? `${spec.across ?? "round"} ${spec.xs[places[0]] ?? "-"}` : "newest";
    const value = (series, place) => (known(series.values[place]) ? (series.form ?? short)(series.values[place]) : "-");
    return html`<ul class="key">
      <li class="at">${at}</li>
      ${measured.map(
        (series, index) => html`<li>${lineSample(series)} ${series.name} <b>${value(series, places[index])}</b></li>`,
      )}
      ${(spec.levels ?? []).map((line) => html`<li>${lineSample(line)} ${line.name}</li>`)}
      ${(spec.bands ?? []).map((band) => html`<li>${bandSample(band)} ${band.name}</li>`)}
      ${(spec.marks ?? []).map((mark) => html`<li><b>${mark.letter}</b> ${mark.name}</li>`)}
    </ul>`;
  }

  #table() {
    const { xs, series, across } = this.#spec;
    const step = Math.max(1, Math.ceil(xs.length / MOST_ROWS));
    const places = xs.map((_, place) => place).filter((place) => place % step === 0 || place === xs.length - 1);
    return html`<div class="scroll" tabindex="0" role="group" aria-label="Numbers">
      <table>
        <thead>
          <tr><th scope="col">${across
            ?? "round"}</th>${series.map((s) => html`<th scope="col" class="n">${s.name}</th>`)}</tr>
        </thead>
        <tbody>
          ${places.map(
            (place) => html`<tr>
              <th scope="row">${xs[place]}</th>
              ${series.map(
                (s) => html`<td class="n">
                ${known(s.values[place]) ? (s.form ?? short)(s.values[place]) : "-"}</td>`,
              )}
            </tr>`,
          )}
        </tbody>
      </table>
      ${step > 1 ? html`<p class="soft small">Every ${step}th ${across ?? "round"}.</p>` : nothing}
    </div>`;
  }

  #anew() {
    this.#plot?.destroy();
    this.#plot = null;
    this.#draw(true);
  }

  /** Draws what has changed, if the chart is in sight. */
  #draw(force = false) {
    const holder = this.querySelector(".plot");
    if (!this.#inSight || !holder || document.hidden || !this.#spec) {
      if (force) this.#drawn = null;
      return;
    }
    if (!force && this.#drawn === this.#spec && this.#plot) return;
    this.#wide ||= Math.floor(holder.clientWidth);
    if (!this.#wide) return;
    const range = this.#range();
    const spec = this.#spec;
    const columns = [...spec.series.map((s) => s.values), ...(spec.bands ?? []).flatMap((b) => [b.high, b.low])];
    const data = thinned(spec.xs, columns, range, this.#wide);
    const note = this.querySelector(".thin");
    note.hidden = !data.dropped;
    note.textContent = data.dropped
      ? "Thinned: of each pixel column the least and the greatest value are drawn."
      : "";
    if (this.#plot && this.#plot.holder === holder && shape(this.#plot.spec) === shape(spec)) {
      this.#plot.spec = spec;
      this.#plot.setData([data.xs, ...data.columns], false);
      this.#plot.setScale("x", { min: range[0], max: range[1] });
    } else {
      this.#plot?.destroy();
      this.#plot = new uPlot(this.#options(), [data.xs, ...data.columns], holder);
      this.#plot.spec = spec;
      this.#plot.holder = holder;
      this.#plot.setScale("x", { min: range[0], max: range[1] });
    }
    this.#drawn = spec;
  }

  /** Shown positions: the chosen ones, within what there is. */
  #range() {
    const { xs, zooms } = this.#spec;
    const whole = [(xs[0] ?? 1) - 0.5, (xs.at(-1) ?? 1) + 0.5];
    const zoom = zooms === false ? null : chosenZoom();
    return zoom && zoom[0] < whole[1] && zoom[1] > whole[0] ? zoom : whole;
  }

  #options() {
    const spec = this.#spec;
    const [ink, soft, rule] = [color("ink"), color("soft"), color("rule")];
    const rows = spec.marks?.length ? ROW * spec.marks.length + 6 : 0;
    const few = spec.xs.length <= 40;
    const bandSeries = (spec.bands ?? []).flatMap(() => [
      { stroke: "transparent", points: { show: false } },
      { stroke: "transparent", points: { show: false } },
    ]);
    const first = spec.series.length + 1;
    return {
      width: this.#wide,
      height: HEIGHT + rows,
      padding: [8, 10, 0, 0],
      legend: { show: false },
      scales: { x: { time: false, auto: false }, y: { range: (_, low, high) => valueRange(spec, low, high) } },
      cursor: {
        y: false,
        points: { size: 6 },
        drag: { x: spec.zooms !== false, y: false, setScale: false },
        sync: spec.zooms === false ? undefined : { key: "rounds", setSeries: false },
        bind: {
          dblclick: () => () => {
            if (spec.zooms !== false) choose({ zoom: null });
            return null;
          },
        },
      },
      axes: [
        {
          stroke: soft,
          font: FONT,
          grid: { show: false },
          ticks: { show: false },
          size: 26 + rows,
          gap: 4 + rows,
          space: 48,
          incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 50000, 100000],
        },
        {
          stroke: soft,
          font: FONT,
          grid: { stroke: rule, width: 1 },
          ticks: { show: false },
          values: (_, splits) => splits.map(tickText),
        size: (_, values) => axisSize(values),
          gap: 6,
          space: 24,
        },
      ],
      series: [
        {},
        ...spec.series.map((series) => ({
          stroke: color(series.color ?? "1"),
          width: series.thin ? 1 : 2,
          dash: DASHES[series.dash ?? 0],
          points: { show: few && !series.thin, size: 4, fill: color(series.color ?? "1") },
          spanGaps: false,
        })),
        ...bandSeries,
      ],
      bands: (spec.bands ?? []).map((band, index) => ({
        series: [first + 2 * index, first + 2 * index + 1],
        fill: faint(color(band.color ?? "1")),
      })),
      hooks: {
        setCursor: [(plot) => this.#pointed(plot)],
        setSelect: [(plot) => this.#selected(plot)],
        draw: [(plot) => drawExtras(plot, plot.spec ?? spec, ink)],
      },
    };
  }

  #pointed(plot) {
    const index = plot.cursor.idx;
    const x = index === null || index === undefined ? null : plot.data[0][index];
    const place = x === null ? null : this.#spec.xs.indexOf(x);
    if (place === this.#at) return;
    this.#at = place !== null && place >= 0 ? place : null;
    this.#frame();
  }

  #selected(plot) {
    if (plot.select.width < 4) return;
    const low = plot.posToVal(plot.select.left, "x");
    const high = plot.posToVal(plot.select.left + plot.select.width, "x");
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    const [first, last] = [
      Math.max(this.#spec.xs[0], Math.round(low)),
      Math.min(this.#spec.xs.at(-1), Math.round(high)),
    ];
    if (last > first) choose({ zoom: `${first}-${last}` });
  }

  #pressed(event) {
    const { xs, series, across } = this.#spec;
    const [first, last] = this.#range();
    const inside = xs
      .map((x, place) => [x, place])
      .filter(([x]) => x >= first && x <= last)
      .map(([, place]) => place);
    if (!inside.length) return;
    const present = inside.indexOf(this.#at ?? inside.at(-1));
    const moves = { ArrowLeft: present - 1, ArrowRight: present + 1, Home: 0, End: inside.length - 1 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    this.#at = inside[Math.max(0, Math.min(inside.length - 1, moves[event.key]))];
    this.#frame();
    if (this.#plot) this.#plot.setCursor({ left: this.#plot.valToPos(xs[this.#at], "x"), top: 10 }, false);
    const values = series
      .filter((s) => known(s.values[this.#at]))
      .map((s) => `${s.name} ${(s.form ?? short)(s.values[this.#at])}`);
    this.querySelector("[aria-live]").textContent =
      `${across ?? "round"} ${xs[this.#at]}: ${values.join(", ") || "no value"}`;
  }
}

customElements.define("esper-chart", EsperChart);
