// Names, letters and colors of stages, operations, heads and levels. They are those of Sanctum and the report.

export const STAGES = {
  GERMINATED: ["G", "germinated: a new seed that does not train yet"],
  TRAINING: ["T", "training: trained behind the host without touching its output"],
  BLENDING: ["B", "blending: its amplitude is on the way to its target"],
  HOLDING: ["H", "holding: blended in, neither kept nor pruned yet"],
  FOSSILIZED: ["F", "fossilized: kept, a permanent part of the network"],
  PRUNED: ["P", "pruned: removed"],
  EMBARGOED: ["E", "embargoed: the slot waits after a removal"],
  RESETTING: ["R", "resetting: the slot is about to be free again"],
};
export const COOLDOWN = new Set(["PRUNED", "EMBARGOED", "RESETTING"]);

export const OPERATIONS = {
  WAIT: [".", "wait"],
  GERMINATE: ["g", "germinate"],
  SET_ALPHA_TARGET: ["a", "set the alpha target"],
  PRUNE: ["p", "prune"],
  FOSSILIZE: ["f", "fossilize"],
  ADVANCE: ["v", "advance"],
};
export const REFUSED = "x";

export const HEADS = ["op", "slot", "blueprint", "style", "tempo", "alpha_target", "alpha_speed", "alpha_curve"];

/** What the choice of a head is called; its number if it has no name. `names` are those of all heads, by index. */
export function choiceName(head, index, names) {
  return names?.[head]?.[index] ?? String(index);
}

export const LEVELS = {
  ok: ["✓", "ok"],
  look: ["!", "look"],
  wrong: ["X", "wrong"],
  unknown: ["?", "unknown"],
};

export const QUESTIONS = {
  alive: "Is it alive?",
  learning: "Is the policy learning?",
  growing: "What are the networks doing?",
  explained: "Why was this reward paid?",
  safe: "Is it safe?",
};

export const MARKS = {
  fossilized: ["F", "fossilized seeds"],
  rollback: ["R", "rollbacks"],
  anomaly: ["!", "anomalies"],
};

/** A name of a record in words: `alpha_target` is "alpha target". */
export function words(name) {
  return String(name ?? "").replaceAll("_", " ");
}

export const DASHES = [[], [7, 3], [2, 3], [9, 3, 2, 3]];
export const COLORS = ["1", "2", "3", "4"];

/** Color and line style of the n-th of many series: no two are equal up to sixteen. */
export function lineStyle(index) {
  return { color: COLORS[index % 4], dash: (index + Math.floor(index / 4)) % 4 };
}
