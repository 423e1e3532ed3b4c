// The start of every page: it loads the module of the page, follows the run, and draws what has changed.
//
// A module of a page has `view(app)`, and may have `load(app)` for data besides the state of the run, `reloads`,
// the choices after which it loads again, and `changed(app, sections)`, called after an update of the state.

import { html, nothing, render } from "./vendor/lit-html/lit-html.js";
import { page, segments } from "./state/address.js";
import { watchConnection } from "./state/connection.js";
import { empty, level } from "./parts/elements.js";
import { evidence } from "./parts/evidence.js";
import { drawFrame } from "./parts/frame.js";
import { RunFeed } from "./state/feed.js";

const RETRY = 5000; // milliseconds to the next try of a page without a stream

const main = document.getElementById("main");

class App {
  constructor(module) {
    this.module = module;
    const [kind, name] = segments();
    this.run = kind === "runs" ? name : null;
    this.place = name ?? null;
    this.data = null; // answer of the page's own request
    this.error = null;
    this.loading = null; // controller of the request in progress
    this.seen = performance.now(); // when the newest answer came, for a page without a stream
    this.lost = null; // {since, next} while its server cannot be reached
    this.wasLost = false;
    this.feed = this.run
      ? new RunFeed(this.run, { changed: (names) => this.updated(names), status: () => this.connected() })
      : null;
    this.memory = {}; // of the page, such as an order of rows
    this.drawBar = watchConnection(this.feed ?? this);
    this.due = false;
  }

  get sections() {
    return this.feed?.sections ?? {};
  }

  async start() {
    document.addEventListener("choice", (event) => this.chosen(event.detail));
    this.opened = this.feed?.open().catch((error) => this.failed(error));
    await Promise.all([this.opened, this.load()]);
    this.draw();
    document.addEventListener("visibilitychange", () => !document.hidden && this.redraw());
  }

  /** The page's own data, asked for again. What is shown stays until the answer comes. */
  async load() {
    if (!this.module.load) return;
    this.loading?.abort();
    const controller = new AbortController();
    this.loading = controller;
    try {
      this.data = await this.module.load(this, controller.signal);
      this.error = null;
      this.seen = performance.now();
      this.reached(true);
    } catch (error) {
      if (error.name === "AbortError") return;
      this.failed(error);
    }
    if (this.loading === controller) {
      this.loading = null;
      this.redraw();
    }
  }

  tryAgain() {
    return this.load();
  }

  failed(error) {
    if (error instanceof TypeError && this.data !== null) {
      this.reached(false); // no answer at all: the bar says so, and what is shown stays
    } else {
      this.error = error;
    }
    this.redraw();
  }

  /** Notes whether the server answers a page without a stream; one that does not is asked again. */
  reached(answers) {
    if (this.feed || (answers && !this.lost)) return;
    const now = performance.now();
    this.lost = answers ? null : { since: this.lost?.since ?? now, next: now + RETRY };
    clearTimeout(this.retry);
    if (!answers) this.retry = setTimeout(() => !document.hidden && this.load(), RETRY);
    this.drawBar();
  }

  /** The stream is lost or back. When it is back, the page's own data is read again. */
  connected() {
    const lost = this.feed.lost !== null;
    if (this.wasLost && !lost && !document.hidden && !this.feed.problem) this.load();
    this.wasLost = lost;
    this.drawBar();
  }

  chosen(keys) {
    const reloads = this.module.reloads ?? [];
    this.module.chose?.(this, keys);
    if (keys.includes("*") || keys.some((key) => reloads.includes(key))) this.load();
    this.redraw();
  }

  updated(names) {
    this.module.changed?.(this, names);
    this.redraw();
  }

  /** Draws at the next frame. Hidden tabs are not drawn. */
  redraw() {
    if (this.due || document.hidden) return;
    this.due = true;
    requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.due = false;
    render(this.shown(), main);
  }

  shown() {
    const waits = (this.feed && this.feed.version === null) || (this.module.load && this.data === null);
    if (this.error && waits) return failure(this.error);
    if (waits) return html`<h1>${document.title.replace(/ - Overwatch$/, "")}</h1><p class="soft">Loading</p>`;
    return html`${this.feed ? evidence(this.sections) : nothing}${this.error ? stale(this.error) : nothing}
    ${this.module.view(this)}`;
  }
}

/** What is shown is not what was asked for last. */
function stale(error) {
  return html`<div class="notice" role="alert">${level("wrong", "not read")} ${explained(error)}</div>`;
}

/** What cannot be shown, and what helps. */
function failure(error) {
  return html`<h1>This cannot be shown</h1>${empty(explained(error), "Reload the page to try again.")}`;
}

function explained(error) {
  const sentence = `${error.message}`.replace(/\.?$/, ".");
  const nearest = error.nearest ? html` The nearest name is <b>${error.nearest}</b>.` : nothing;
  const command = error.command ? html` This command helps: <code>${error.command}</code>` : nothing;
  return html`${sentence}${nearest}${command}`;
}

drawFrame();
const app = new App(await import(`./pages/${page}.js`));
main.replaceChildren();
await app.start();
document.documentElement.dataset.ready = "yes";
