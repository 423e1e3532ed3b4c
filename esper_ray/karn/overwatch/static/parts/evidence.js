// What a reader of any page of a run must know: a driver that is gone, damage, a resumption, what is not recorded.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { page } from "../state/address.js";
import { level } from "./elements.js";

function notice(name, title, content) {
  return html`<div class="notice">${level(name, title)} <div>${content}</div></div>`;
}

/** Bars above a page of a run; none if all is well. */
export function evidence({ facts, integrity, answers }) {
  return [driver(answers?.alive, facts), ...damage(integrity ?? {}), ...records(facts ?? {}, integrity ?? {})];
}

/** A driver that is gone or stuck. The overview says it in its first answer. */
function driver(alive, facts) {
  if (alive?.level !== "wrong" || page === "run") return nothing;
  const command = facts?.command_resume ? html`<pre>${facts.command_resume}</pre>` : nothing;
  return notice("wrong", "alive", html`${alive.text}${command}`);
}

function damage({ whole, problems = [], notes = [] }) {
  const lines = problems.length ? problems : ["The records of this run are not complete."];
  const broken = notice("wrong", "evidence is not whole", lines.map((text) => html`<p>${text}</p>`));
  return [whole === false ? broken : nothing, ...notes.map((text) => notice("look", "note", text))];
}

function records({ failure, reading, telemetry }, integrity) {
  const full = "Steps in play are not recorded any more in this round: the file is full.";
  const off = "This run records no events: its pages show what its small files hold. Train without --telemetry off.";
  return [
    failure ? notice("wrong", "cannot be shown", failure) : nothing,
    reading ? notice("look", "reading", "The event log is being read; numbers follow.") : nothing,
    integrity.live_is_full ? notice("look", "live steps", full) : nothing,
    telemetry === "off" ? notice("look", "telemetry is off", off) : nothing,
  ];
}
