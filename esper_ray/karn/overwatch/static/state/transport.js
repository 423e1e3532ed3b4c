// Requests to the server. An error carries what the user can do.

import { programVersion, root } from "./address.js";

export class ServerError extends Error {
  constructor(status, answer) {
    super(answer.error || `the server answered with status ${status}`);
    this.status = status;
    this.nearest = answer.nearest ?? null;
    this.command = answer.command ?? null;
  }
}

const versions = { server: programVersion };

/** Version of the server, as its newest answer says. */
export function serverVersion() {
  return versions.server;
}

function noted(response) {
  const version = response.headers.get("X-Esper-Version");
  if (version && version !== versions.server) {
    versions.server = version;
    document.dispatchEvent(new CustomEvent("server-version"));
  }
  return response;
}

async function answered(response) {
  noted(response);
  if (response.status === 401) {
    const back = location.pathname.slice(root.length) + location.search;
    location.assign(`${root}/login?next=${encodeURIComponent(back)}`);
  }
  const type = response.headers.get("Content-Type") || "";
  const answer = type.includes("json") ? await response.json() : { error: null };
  if (!response.ok) throw new ServerError(response.status, answer);
  return answer;
}

/** JSON of an address of the API. */
export async function fetchJson(address, { signal } = {}) {
  return answered(await fetch(address, { signal, headers: { Accept: "application/json" } }));
}

export async function postJson(address, body, { signal } = {}) {
  const headers = { Accept: "application/json", "Content-Type": "application/json" };
  return answered(await fetch(address, { method: "POST", signal, headers, body: JSON.stringify(body) }));
}

/** Whether the server answers; its version is noted. */
export async function isReachable() {
  try {
    return noted(await fetch(`${root}/healthz`, { cache: "no-store" })).ok;
  } catch {
    return false;
  }
}
