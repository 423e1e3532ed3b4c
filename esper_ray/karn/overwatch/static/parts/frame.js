// Head of the page: where one is, and the other pages of the run.

import { html, nothing, render } from "../vendor/lit-html/lit-html.js";
import { link, page, root, segments } from "../state/address.js";

const TABS = [
  ["run", "Overview", []],
  ["episodes", "Episodes", ["episodes"]],
  ["policy", "Policy", ["policy"]],
  ["network", "Network", ["network"]],
  ["log", "Log", ["log"]],
  ["sql", "SQL", ["sql"]],
  ["flight", "Flight recorder", ["flight"]],
];
const BELOW_EPISODES = new Set(["episode", "seed"]);

/** Places from the list of runs to this page, as [text, address] pairs. */
function trail() {
  const [kind, name, part, number, , seed] = segments();
  const places = [["Runs", `${root}/`]];
  if (kind === "runs") {
    places.push([name, link(["runs", name])]);
    if (part) places.push([TABS.find(([key]) => key === part)?.[1] ?? part, link(["runs", name, part])]);
    if (number !== undefined) {
      const title = part === "episodes" ? `episode ${number}` : `recording ${number}`;
      places.push([title, link(["runs", name, part, number])]);
    }
    if (seed !== undefined) places.push([`seed ${seed}`, location.pathname]);
  } else if (kind === "compare") {
    places.push(["Comparison of runs", location.pathname + location.search]);
  } else if (kind) {
    places.push([name ?? kind, location.pathname]);
  }
  return places;
}

/** Draws trail and tabs. */
export function drawFrame() {
  const places = trail();
  const [own, run_] = [places.at(-1)[0], segments()[1]];
  document.title = `${run_ && own !== run_ ? `${own}, ${run_}` : own} - Overwatch`;
  render(
    html`<ol>
      ${places.map(
        ([text, address], index) =>
          html`<li><a href=${address} aria-current=${index === places.length - 1 ? "page" : nothing}>${text}</a></li>`,
      )}
    </ol>`,
    document.getElementById("trail"),
  );
  const [kind, run] = segments();
  const tabs = document.getElementById("tabs");
  if (kind !== "runs" || !run) return;
  tabs.hidden = false;
  const present = BELOW_EPISODES.has(page) ? "episodes" : page;
  render(
    html`<ul>
      ${TABS.map(
        ([key, title, path]) =>
          html`<li><a href=${link(["runs", run, ...path])} aria-current=${key === present ? "page" : nothing}>
            ${title}</a></li>`,
      )}
    </ul>`,
    tabs,
  );
}
