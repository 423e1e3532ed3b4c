// Runs, comparisons, sweeps and evaluations: filtered, grouped, up to ten chosen for a comparison.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { repeat } from "../vendor/lit-html/directives/repeat.js";
import { apiLink, choose, chosen, chosenAll, link, root } from "../state/address.js";
import { empty, level, sortHeading } from "../parts/elements.js";
import { compared, counted, growth, interval, known, localTime, setting } from "../numbers.js";
import { fetchJson } from "../state/transport.js";

const MOST = 10; // runs of a comparison
const SETTINGS = 4; // shown settings of a run; the others are on demand
const EVERY = 5000; // milliseconds between two looks at the list
const KINDS = { run: "runs", comparison: "comparisons", sweep: "sweeps", evaluation: "evaluations" };
const STATUS_LEVELS = {
  training: "ok",
  running: "ok",
  finished: "ok",
  failed: "wrong",
  gone: "wrong",
  interrupted: "look",
};

const COLUMNS = [
  { key: "name", title: "name", sortable: true, of: (place) => place.name },
  { key: "status", title: "state", sortable: true, of: (place) => place.status },
  { key: "round", title: "rounds", sortable: true, number: true, of: (place) => place.round },
  { key: "gain", title: "gain over control, 95 %", sortable: true, number: true, of: (place) => place.gain?.mean_pp },
  { key: "growth", title: "growth", sortable: true, number: true, of: (place) => place.growth_ratio },
  { key: "started", title: "started", sortable: true, number: true, of: (place) => time(place.started) },
  { key: "settings", title: "differs from the others" },
];

function time(started) {
  return typeof started === "number" ? 1000 * started : Date.parse(started ?? "");
}

export async function load(app, signal) {
  if (!app.memory.timer) {
    app.memory.timer = setInterval(() => !document.hidden && !app.loading && app.load(), EVERY);
  }
  return fetchJson(apiLink(["places"]), { signal });
}

export function view(app) {
  const { places, problems } = app.data;
  const shown = filtered(places);
  const counts = Object.entries(KINDS).map(([kind, plural]) => [
    plural,
    places.filter((place) => place.kind === kind).length,
  ]);
  const told = counts
    .filter(([, n]) => n)
    .map(([plural, n]) => (n === 1 ? `1 ${plural.slice(0, -1)}` : `${n} ${plural}`));
  return html`<div class="stack">
    <div class="head"><h1>Runs</h1><span class="facts">${told.join(", ")}</span></div>
    ${problems?.length ? html`<div class="notice">${level("look")}
      <div>${problems.map((text) => html`<p>${text}</p>`)}</div></div>` : nothing}
    ${places.length ? listing(app, places, shown) : none()}
  </div>`;
}

function none() {
  return empty(
    "There is no run here yet.",
    html`Start one with <code>esper train ppo --preset digits --overwatch</code>, or give the folder of runs:
      <code>esper overwatch FOLDER</code>. The list looks again every five seconds.`,
  );
}

function filtered(places) {
  const text = chosen("filter").trim().toLowerCase();
  const kind = chosen("kind");
  return places.filter((place) => {
    if (kind && place.kind !== kind) return false;
    const settings = Object.entries(place.settings ?? {}).map(([key, value]) => `${key}=${setting(value)}`);
    const hay = [place.name, place.folder, place.status, place.task, place.preset, place.group, ...settings];
    return (
      !text ||
      text.split(/\s+/).every((word) =>
        hay.some((piece) =>
          String(piece ?? "")
            .toLowerCase()
            .includes(word),
        ),
      )
    );
  });
}

/** Order of two values of a column; rows without one come last. */
function rowOrder(x, y, descending) {
  const missing = [x, y].map((value) => value === "" || Number.isNaN(value));
  if (missing[0] !== missing[1]) return missing[0] ? 1 : -1;
  return descending ? -compared(x, y) : compared(x, y);
}

/** Rows in the order of the moment at which it was chosen; new places come first. */
function ordered(app, places) {
  const sort = chosen("sort", "started");
  const descending = chosen("descending", sort === "started" && !chosen("sort") ? "1" : "") === "1";
  const wanted = `${sort} ${descending}`;
  const column = COLUMNS.find((candidate) => candidate.key === sort) ?? COLUMNS[0];
  if (app.memory.wanted !== wanted) {
    app.memory.wanted = wanted;
    app.memory.order = new Map();
  }
  const order = app.memory.order;
  const fresh = places.filter((place) => !order.has(place.url));
  if (fresh.length) {
    const known_ = places.filter((place) => order.has(place.url)).sort((a, b) => order.get(a.url) - order.get(b.url));
    const rows = [
      ...fresh.sort(
        (a, b) => rowOrder(column.of(a) ?? "", column.of(b) ?? "", descending) || compared(a.name, b.name),
      ),
      ...known_,
    ];
    app.memory.order = new Map(rows.map((place, index) => [place.url, index]));
  }
  return {
    sort,
    descending,
    rows: [...places].sort((a, b) => app.memory.order.get(a.url) - app.memory.order.get(b.url)),
  };
}

function listing(app, places, shown) {
  const { sort, descending, rows } = ordered(app, shown);
  const keys = [...new Set(places.flatMap((place) => Object.keys(place.settings ?? {})))].sort();
  const groups = grouped(rows, chosen("group"));
  return html`
    <form class="tools filters" role="search" @submit=${(event) => event.preventDefault()}>
      <label>Filter <input type="search" name="filter" .value=${chosen("filter")} placeholder="name, state, key=value"
        @input=${(event) => choose({ filter: event.target.value })} /></label>
      <label>Kind <select name="kind" @change=${(event) => choose({ kind: event.target.value })}>
        <option value="">all</option>
        ${Object.entries(KINDS).map(
          ([kind, plural]) => html`<option value=${kind} .selected=${chosen("kind") === kind}>
          ${plural}</option>`,
        )}
      </select></label>
      <label>Group by <select name="group" @change=${(event) => choose({ group: event.target.value })}>
        <option value="">nothing</option>
        ${["kind", "parent", "folder", "task", "preset", "status", "seed",
          ...keys].map((key) => html`<option value=${key} .selected=${chosen("group") === key}>${key}</option>`)}
      </select></label>
      ${comparison(places)}
    </form>
    ${
      shown.length
        ? html`<div class="scroll tall" tabindex="0" role="group" aria-label="Runs"><table class="full places">
          <thead><tr>
            <th scope="col"><span
              class="gone">chosen</span></th>${COLUMNS.map((column) => sortHeading(column, sort,
                descending))}</tr></thead>
          ${groups.map(
            ([name, members]) => html`<tbody>
            ${
              name === null
                ? nothing
                : html`<tr>
              <th colspan=${COLUMNS.length + 1} scope="rowgroup"><b>${chosen("group")} ${name}</b>
                <span class="soft">${counted(members.length, "place")}</span></th></tr>`
            }
            ${repeat(members, (place) => place.url, row)}
          </tbody>`,
          )}
        </table></div>`
        : empty("No run matches the filter.", "Remove words from the filter, or choose all kinds.")
    }`;
}

function grouped(rows, key) {
  if (!key) return [[null, rows]];
  const groups = new Map();
  for (const place of rows) {
    const name = setting(place.settings?.[key] ?? place[key]);
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(place);
  }
  return [...groups].sort(([a], [b]) => compared(a, b));
}

function comparison(places) {
  const runs = chosenAll("run").filter((id) => places.some((place) => place.kind === "run" && place.id === id));
  const go = () => location.assign(link(["compare"], { run: runs }));
  return html`<span class="push">
    <span class="soft" aria-live="polite">
      ${runs.length ? `${counted(runs.length, "run")} chosen` : "Choose two to ten runs to compare them."}</span>
    ${runs.length ? html`<button type="button" @click=${() => choose({ run: [] })}>None</button>` : nothing}
    <button type="button" class="main" ?disabled=${runs.length < 2 || runs.length > MOST} @click=${go}>Compare</button>
  </span>`;
}

function toggled(id, checked) {
  const others = chosenAll("run").filter((run) => run !== id);
  choose({ run: checked ? [...others, id] : others });
}

function row(place) {
  const settings = Object.entries(place.settings ?? {});
  const selected = chosenAll("run").includes(place.id);
  const full = chosenAll("run").length >= MOST && !selected;
  const about = `${place.kind === "run" ? (place.task ?? "") : place.kind}${place.parent ? ` in ${place.parent}` : ""}`;
  return html`<tr class=${selected && place.kind === "run" ? "chosen" : ""}>
    <td>${
      place.kind === "run"
        ? html`<input type="checkbox" aria-label="choose ${place.name}" .checked=${selected} ?disabled=${full}
          @change=${(event) => toggled(place.id, event.target.checked)} />`
        : nothing
    }</td>
    <th scope="row"><a href=${place.url ?? `${root}/`}>${place.name}</a> <span class="soft">${about ?? ""}</span></th>
    <td>${place.status ? level(STATUS_LEVELS[place.status] ?? "unknown", place.status)
      : html`<span class="soft">-</span>`}</td>
    <td class="n">${known(place.round) ? `${place.round} of ${place.rounds ?? "?"}` : "-"}</td>
    <td class="n nowrap">${place.gain ? interval(place.gain)
      : html`<span class="soft">${place.kind !== "run" ? "-" : place.reading ? "reading" : "not measured"}</span>`}</td>
    <td class="n">${growth(place.growth_ratio)}</td>
    <td class="n nowrap">${localTime(place.started)}</td>
    <td class="text small">${settings.length ? differences(settings) : html`<span class="soft">-</span>`}</td>
  </tr>`;
}

/** The first settings, and the others on demand. */
function differences(settings) {
  const pair = ([key, value]) => html`<span class="nowrap">${key} <b>${setting(value)}</b></span> `;
  const more = settings.length - SETTINGS;
  if (more <= 1) return settings.map(pair);
  return html`${settings.slice(0, SETTINGS).map(pair)}
    <details><summary>${more} more</summary>${settings.slice(SETTINGS).map(pair)}</details>`;
}
