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

/** Names of the choices of each head, by index. Those of `slot` are the slots of the run. */
export const CHOICES = {
  op: ["wait", "germinate", "set_alpha_target", "prune", "fossilize", "advance"],
  blueprint: [
    "noop",
    "conv_light",
    "attention",
    "norm",
    "depthwise",
    "bottleneck",
    "conv_small",
    "conv_heavy",
    "lora",
    "lora_large",
    "mlp_small",
    "mlp",
    "flex_attention",
  ],
  style: ["linear_add", "linear_multiply", "sigmoid_add", "gated_gate"],
  tempo: ["3 ticks", "5 ticks", "8 ticks"],
  alpha_target: ["0.5", "0.7", "1.0"],
  alpha_speed: ["0 ticks", "3 ticks", "5 ticks", "8 ticks"],
  alpha_curve: ["linear 12", "cosine 12", "sigmoid 6", "sigmoid 12", "sigmoid 24"],
};

/** What the choice of a head is called; its number if it has no name. `blueprints` has own ones as `norm=mine`. */
export function choiceName(head, index, slots, blueprints) {
  const names = head === "slot" ? slots : CHOICES[head];
  const own = head === "blueprint" ? blueprints?.find((name) => name.startsWith(`${names[index]}=`)) : undefined;
  return own?.split("=")[1] ?? names?.[index] ?? String(index);
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
