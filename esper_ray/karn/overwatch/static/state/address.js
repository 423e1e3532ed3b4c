// The address of the page: all that is chosen is in its query.

const html = document.documentElement;

export const root = html.dataset.root || "";
export const page = html.dataset.page;
export const programVersion = html.dataset.version || "";
export const api = `${root}/api/v1`;

function decoded(segment) {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment;
  }
}

/** Segments of the path below the root, decoded. */
export function segments() {
  return location.pathname.slice(root.length).split("/").filter(Boolean).map(decoded);
}

/** Path below the root with these segments, and a query. */
export function link(path, query = {}) {
  const text = path.map((segment) => encodeURIComponent(segment)).join("/");
  return `${root}/${text}${queryText(query)}`;
}

export function apiLink(path, query = {}) {
  const text = path.map((segment) => encodeURIComponent(segment)).join("/");
  return `${api}/${text}${queryText(query)}`;
}

function queryText(query) {
  const params = new URLSearchParams();
  for (const [key, value] of Object.entries(query)) {
    for (const single of Array.isArray(value) ? value : [value]) {
      if (single !== null && single !== undefined && single !== "") params.append(key, single);
    }
  }
  const text = params.toString();
  return text ? `?${text}` : "";
}

/** What is chosen under this key; `otherwise` without it. */
export function chosen(key, otherwise = "") {
  return new URLSearchParams(location.search).get(key) ?? otherwise;
}

export function chosenNumber(key, otherwise = null) {
  const text = chosen(key);
  return text !== "" && Number.isFinite(Number(text)) ? Number(text) : otherwise;
}

export function chosenAll(key) {
  return new URLSearchParams(location.search).getAll(key);
}

/** The address with other choices; null removes one. */
export function addressWith(changes) {
  const params = new URLSearchParams(location.search);
  for (const [key, value] of Object.entries(changes)) {
    params.delete(key);
    for (const single of Array.isArray(value) ? value : [value]) {
      if (single !== null && single !== undefined && single !== "") params.append(key, single);
    }
  }
  const text = params.toString();
  return `${location.pathname}${text ? `?${text}` : ""}${location.hash}`;
}

/** Writes choices into the address and announces them. `push` makes a new entry of the history. */
export function choose(changes, { push = false } = {}) {
  const address = addressWith(changes);
  if (address !== `${location.pathname}${location.search}${location.hash}`) {
    history[push ? "pushState" : "replaceState"](null, "", address);
  }
  document.dispatchEvent(new CustomEvent("choice", { detail: Object.keys(changes) }));
}

addEventListener("popstate", () => {
  document.dispatchEvent(new CustomEvent("choice", { detail: ["*"] }));
});

/** Range of rounds under `zoom`, as [first, last]; null without one. */
export function chosenZoom() {
  const match = /^(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)$/.exec(chosen("zoom"));
  if (!match) return null;
  const [first, last] = [Number(match[1]), Number(match[2])];
  return last > first ? [first, last] : null;
}
