// The bar below the head of the page: a lost connection, another server, damaged evidence.

import { html, nothing, render } from "../vendor/lit-html/lit-html.js";
import { programVersion } from "./address.js";
import { duration } from "../numbers.js";
import { serverVersion } from "./transport.js";
import { level } from "../parts/elements.js";

function reload() {
  location.reload();
}

function versionBar() {
  if (!programVersion || serverVersion() === programVersion) return nothing;
  return html`<p class="notice">
    ${level("look", "reload")} The server is version ${serverVersion()}, this page is of version ${programVersion}.
    <button type="button" @click=${reload}>Reload the page</button>
  </p>`;
}

function lostBar(source) {
  if (source?.problem) return html`<p class="notice">${level("wrong")} ${source.problem}</p>`;
  if (!source?.lost) return nothing;
  const now = performance.now();
  const age = duration((now - source.seen) / 1000);
  const next = Math.max(0, Math.ceil((source.lost.next - now) / 1000));
  return html`<p class="notice" id="lost">
    ${level("look", "connection lost")} What is shown stays.
    <span aria-hidden="true">It is ${age} old. ${next ? `Next try in ${next} s.` : "Trying now."}</span>
    <button type="button" @click=${() => source.tryAgain()}>Try now</button>
  </p>`;
}

/** Draws the bar, and once a second while a connection is lost. `source` is a feed, or a page without one. */
export function watchConnection(source) {
  const bar = document.getElementById("bar");
  let timer = null;
  const draw = () => {
    render(html`${versionBar()}${lostBar(source)}`, bar);
    if (source?.lost && !timer) {
      timer = setInterval(draw, 1000);
    } else if (!source?.lost && timer) {
      clearInterval(timer);
      timer = null;
    }
  };
  document.addEventListener("server-version", draw);
  draw();
  return draw;
}
