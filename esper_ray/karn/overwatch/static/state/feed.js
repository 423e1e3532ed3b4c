// The state of a run, kept up to date by one stream. It is closed while the tab is hidden.

import { apiLink } from "./address.js";
import { fetchJson, isReachable } from "./transport.js";

const SHORTEST_WAIT = 1;
const LONGEST_WAIT = 15;

/** Newer sections laid over what is known. Only changed environments are sent; null is one that is gone. */
export function merged(known, newer) {
  const sections = { ...known, ...newer };
  if (newer.environments && known.environments) {
    const environments = Object.entries({ ...known.environments, ...newer.environments });
    sections.environments = Object.fromEntries(environments.filter(([, value]) => value !== null));
  }
  return sections;
}

export class RunFeed {
  /**
   * @param run identifier of the run
   * @param changed called with the names of the changed sections
   * @param status called when the connection is lost, is back, or another try begins
   */
  constructor(run, { changed, status }) {
    this.run = run;
    this.version = null;
    this.sections = {};
    this.seen = performance.now(); // when the newest message came
    this.lost = null; // {since, next} while there is no connection
    this.problem = null; // an answer that no further try changes
    this.updates = 0;
    this.changed = changed;
    this.status = status;
    this.source = null;
    this.timer = null;
    this.wait = SHORTEST_WAIT;
  }

  /** Reads the complete state, then follows it. */
  async open() {
    document.addEventListener("visibilitychange", () => this.seenOrHidden());
    addEventListener("pagehide", () => this.close());
    addEventListener("pageshow", (event) => event.persisted && this.seenOrHidden());
    const answer = await fetchJson(apiLink(["runs", this.run]));
    this.take(answer, true);
    this.seenOrHidden();
  }

  seenOrHidden() {
    if (document.hidden) {
      this.close();
    } else if (!this.source && !this.problem) {
      this.connect();
    }
  }

  take(answer, whole = false) {
    this.version = answer.version;
    this.sections = whole ? answer.sections : merged(this.sections, answer.sections);
    this.seen = performance.now();
    this.updates += 1;
    this.changed(Object.keys(answer.sections));
  }

  connect() {
    this.stop();
    const source = new EventSource(apiLink(["runs", this.run, "stream"], { since: this.version }));
    this.source = source;
    source.addEventListener("open", () => this.isBack());
    source.addEventListener("state", (event) => this.take(JSON.parse(event.data)));
    source.addEventListener("error", () => this.isLost());
  }

  isBack() {
    this.wait = SHORTEST_WAIT;
    this.seen = performance.now();
    if (this.lost) {
      this.lost = null;
      this.status();
    }
  }

  isLost() {
    this.stop();
    if (document.hidden) return;
    const now = performance.now();
    this.lost = { since: this.lost?.since ?? now, next: now + 1000 * this.wait };
    this.timer = setTimeout(() => this.tryAgain(), 1000 * this.wait);
    this.wait = Math.min(LONGEST_WAIT, 2 * this.wait);
    this.status();
  }

  /** Asks the server first: its answer says why a stream is refused. */
  async tryAgain() {
    this.stop();
    if (!(await isReachable())) {
      this.isLost();
      return;
    }
    try {
      this.take(await fetchJson(apiLink(["runs", this.run])), true);
    } catch (error) {
      if (error.status === 404 || error.status === 403) {
        this.problem = error.message;
        this.lost = null;
        this.status();
      } else {
        this.isLost();
      }
      return;
    }
    if (!document.hidden) this.connect();
  }

  stop() {
    clearTimeout(this.timer);
    this.timer = null;
    if (this.source) {
      this.source.close();
      this.source = null;
    }
  }

  close() {
    this.stop();
    this.lost = null;
    this.status();
  }
}
