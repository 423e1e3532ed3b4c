// Numbers, times and counts as text.

export const NOT_RECORDED = "not recorded by this version";
export const NOT_MEASURED = "not measured";

export function known(value) {
  return typeof value === "number" && Number.isFinite(value);
}

/** A number with fixed digits; `missing` if it was not measured. */
export function fixed(value, digits = 2, missing = "-") {
  if (!known(value)) return missing;
  const text = value.toFixed(digits);
  return Number(text) === 0 && text.startsWith("-") ? text.slice(1) : text;
}

export function signed(value, digits = 2, missing = "-") {
  if (!known(value)) return missing;
  const text = fixed(value, digits);
  return text.startsWith("-") ? text : `+${text}`;
}

/** A ratio in percent. */
export function percent(ratio, digits = 1, missing = "-") {
  return known(ratio) ? `${fixed(100 * ratio, digits)} %` : missing;
}

/** An accuracy in percentage points of the scale, as percent. */
export function accuracy(pp, missing = "-") {
  return known(pp) ? `${fixed(pp, 1)} %` : missing;
}

/** A difference in percentage points. */
export function points(pp, missing = "-") {
  return known(pp) ? `${signed(pp, 1)} pp` : missing;
}

export function withError(pp, error) {
  if (!known(pp)) return NOT_MEASURED;
  return known(error) ? `${signed(pp, 1)} ± ${fixed(error, 1)} pp` : points(pp);
}

export function interval(gain) {
  if (!gain) return NOT_MEASURED;
  return `${points(gain.mean_pp)} [${signed(gain.low_pp, 1)}, ${signed(gain.high_pp, 1)}]`;
}

export function growth(ratio, missing = "-") {
  return known(ratio) ? `${fixed(ratio, ratio < 9.95 ? 2 : 1)}x` : missing;
}

export function count(value, missing = "-") {
  return known(value) ? value.toLocaleString("en-US") : missing;
}

export function counted(value, noun) {
  return `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
}

/** A number with at most `digits` significant digits. */
export function short(value, digits = 3, missing = "-") {
  if (!known(value)) return missing;
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6)) return value.toExponential(digits - 1);
  return String(Number(value.toPrecision(digits)));
}

/** A duration in its greatest two units. */
export function duration(seconds) {
  if (!known(seconds)) return "-";
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

const LOCAL = new Intl.DateTimeFormat("en-GB", {
  year: "numeric",
  month: "short",
  day: "numeric",
  hour: "2-digit",
  minute: "2-digit",
  hourCycle: "h23",
  timeZoneName: "short",
});

/** A time, in ISO 8601 or Unix seconds, as local time with its zone. */
export function localTime(time, missing = "-") {
  if (time === null || time === undefined || time === "") return missing;
  const date = typeof time === "number" ? new Date(1000 * time) : new Date(time);
  return Number.isNaN(date.getTime()) ? missing : LOCAL.format(date);
}

/** What a value of a setting is written as. */
export function setting(value) {
  if (value === null || value === undefined) return "none";
  if (typeof value === "string") return value;
  return JSON.stringify(value);
}

/** Order of two texts: as numbers if both are. */
export function compared(a, b) {
  const [x, y] = [Number(a), Number(b)];
  const numbers = a !== "" && b !== "" && !Number.isNaN(x) && !Number.isNaN(y);
  return numbers ? x - y : String(a).localeCompare(String(b), "en", { numeric: true });
}
