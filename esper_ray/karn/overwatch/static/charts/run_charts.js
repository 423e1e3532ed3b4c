// The charts of a run over its rounds.

import { fixed, growth, percent, short, signed } from "../numbers.js";
import { MARKS } from "../words.js";

const EMPTY = [];

/** Specifications of the charts, see `charts.js`. */
export function curves({ columns = {}, control = null, marks = [] } = {}) {
  const xs = (columns.round ?? EMPTY).map((round) => round + 1);
  const missing = xs.map(() => null);
  const column = (name) => columns[name] ?? missing;
  const scaled = (name) => column(name).map((value) => (value === null ? null : 100 * value));
  const series = (name, key, more = {}) => ({ name, values: column(key), ...more });
  const chart = (key, title, parts) => ({
    key,
    title,
    xs,
    missing: "Not recorded by this version, or not measured yet.",
    ...parts,
  });
  const inPercent = (value) => `${fixed(value, 1)} %`;
  const low = column("low_variance");
  const explained = column("explained_variance");
  return [
    chart("accuracy", "Validation accuracy at the end of an episode, percent", {
      double: true,
      series: [
        { name: "mean", values: scaled("val_accuracy_ratio"), form: inPercent },
        {
          name: "fossilized seeds only",
          values: scaled("committed_accuracy_ratio"),
          color: "3",
          dash: 2,
          form: inPercent,
        },
      ],
      bands: band("lowest to highest episode", scaled("val_accuracy_min"), scaled("val_accuracy_max")),
      levels: controlLine(control),
      marks: markRows(marks),
    }),
    chart("return", "Return of an episode", {
      series: [series("mean", "return_mean", { form: (value) => signed(value, 2) })],
      bands: band("lowest to highest", column("return_min"), column("return_max")),
    }),
    chart("growth", "Growth: parameters over those of the host", {
      series: [series("mean", "growth_ratio", { form: growth })],
      floor: 1,
    }),
    chart("kl", "Approximate KL divergence, nats", { series: [series("KL", "kl", { form: short })], floor: 0 }),
    chart("clip", "Share of clipped ratios", {
      series: [
        series("all", "clip_share", { form: percent }),
        series("above", "clip_share_up", { color: "3", dash: 2, form: percent }),
        series("below", "clip_share_down", { color: "2", dash: 1, form: percent }),
      ],
      floor: 0,
    }),
    chart("explained", "Explained variance of the returns", {
      series: [
        {
          name: "explained variance",
          values: explained.map((value, i) => (low[i] === 1 ? null : value)),
          form: (v) => fixed(v, 2),
        },
        {
          name: "where returns hardly vary",
          values: explained.map((value, i) => (low[i] === 1 ? value : null)),
          color: "g",
          dash: 2,
          form: (v) => fixed(v, 2),
        },
      ],
      levels: [{ name: "no better than the mean", value: 0, color: "g", dash: 1 }],
      top: 1,
    }),
    chart("entropy", "Entropy of a whole action, nats", {
      series: [series("entropy", "entropy", { form: (value) => fixed(value, 2) })],
      floor: 0,
    }),
  ];
}

/** Mean final accuracy of the host without growth. */
export function controlLine(control) {
  if (!control) return [];
  return [
    {
      name: `without growth ${fixed(control.mean_pp, 1)} % (n = ${control.n})`,
      value: control.mean_pp,
      color: "2",
      dash: 1,
    },
  ];
}

function band(name, low, high, color = "1") {
  return low.some((value) => value !== null) ? [{ name, low, high, color }] : [];
}

function markRows(marks) {
  return Object.entries(MARKS).flatMap(([kind, [letter, name]]) => {
    const at = marks.filter((mark) => mark.kind === kind).map((mark) => mark.round + 1);
    return at.length ? [{ letter, name: `${name} (${at.length})`, at }] : [];
  });
}
