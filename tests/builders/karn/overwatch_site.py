"""A small server of Overwatch's pages for tests: the same templates and policy, answers from a ``Site``."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from jinja2 import Environment, FileSystemLoader
from overwatch_data import Site

FOLDER = Path(__file__).parents[3] / "esper_ray" / "karn" / "overwatch"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".json": "application/json"}
PAGES = {
    ("runs",): "run",
    ("runs", "episodes"): "episodes",
    ("runs", "episodes", "*"): "episode",
    ("runs", "episodes", "*", "seeds", "*"): "seed",
    ("runs", "policy"): "policy",
    ("runs", "network"): "network",
    ("runs", "log"): "log",
    ("runs", "sql"): "sql",
    ("runs", "flight"): "flight",
    ("runs", "flight", "*"): "flight",
    ("comparisons",): "comparison",
    ("sweeps",): "sweep",
    ("evaluations",): "evaluation",
}
TEMPLATES = Environment(loader=FileSystemLoader(FOLDER / "templates"), autoescape=True)


def page_of(parts):
    """Name of the page at a path, without the name of the run; ``None`` if there is none."""
    if not parts:
        return "places"
    if parts == ["compare"]:
        return "compare"
    if len(parts) < 2:
        return None
    rest = [parts[0], *parts[2:]]
    for pattern, page in PAGES.items():
        if len(pattern) == len(rest) and all(p in ("*", r) for p, r in zip(pattern, rest, strict=True)):
            return page
    return None


class TestServer:
    """The server, in threads of this process."""

    __test__ = False

    def __init__(self, site: Site, root: str = "", version: str = "0.1.0", port: int = 0):
        self.site, self.root, self.version, self.requests = site, root, version, []
        self.streams = 0
        self.open = True
        handler = type("Handler", (_Handler,), {"owner": self})
        self.server = _Server(("127.0.0.1", port), handler)
        self.server.daemon_threads = True
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}{root}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self):
        """Ends all connections."""
        self.open = False
        self.server.shutdown()
        self.server.server_close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """A browser that leaves a page drops its connections: no output."""


class _Handler(BaseHTTPRequestHandler):
    owner: TestServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        """No output."""

    def do_GET(self):
        if not self.owner.open:
            self.close_connection = True
            return None
        parts = urlsplit(self.path)
        self.owner.requests.append(self.path)
        path = unquote(parts.path)
        if not path.startswith(self.owner.root):
            return self.answer(404, "text/plain", b"outside the prefix")
        below = [piece for piece in path[len(self.owner.root) :].split("/") if piece]
        query = parse_qs(parts.query)
        if below[:1] == ["static"]:
            return self.static("/".join(below[1:]))
        if below == ["healthz"]:
            return self.json({"ok": True})
        if below[:2] == ["api", "v1"]:
            return self.api(below[2:], query)
        return self.page(below, query)

    def do_POST(self):
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length) or b"null")
        below = self.path[len(self.owner.root) :].split("/")[3:]
        self.reply(self.owner.site.answers.get("/".join(below)), body)

    def static(self, name):
        file = FOLDER / "static" / name
        if not file.is_file():
            return self.answer(404, "text/plain", b"no such file")
        return self.answer(200, TYPES.get(file.suffix, "text/plain"), file.read_bytes())

    def page(self, below, query):
        values = {"root": self.owner.root, "version": self.owner.version}
        if below == ["login"]:
            text = TEMPLATES.get_template("login.html").render(wrong="wrong" in query, next="/", **values)
            return self.answer(200, "text/html; charset=utf-8", text.encode())
        name = page_of(below)
        if name is None:
            values |= {"error": "There is no page at this address.", "nearest": "digits-s42", "command": "esper runs"}
            text = TEMPLATES.get_template("missing.html").render(nearest_url=f"{self.owner.root}/", **values)
            return self.answer(404, "text/html; charset=utf-8", text.encode())
        title = " ".join(below[1:]) or "Runs"
        text = TEMPLATES.get_template("page.html").render(page=name, title=title, **values)
        return self.answer(200, "text/html; charset=utf-8", text.encode())

    def api(self, below, query):
        site = self.owner.site
        if below[:1] == ["runs"] and below[2:] == ["stream"]:
            return self.stream(int(query.get("since", ["0"])[0]))
        if below[:1] == ["runs"] and len(below) == 2:
            return self.json({"version": site.version, "sections": site.sections})
        return self.reply(site.answers.get("/".join(below)), query)

    def reply(self, answer, question):
        if callable(answer):
            answer = answer(question)
        if answer is None:
            return self.json({"error": "no such thing", "nearest": "digits-s42", "command": "esper runs"}, 404)
        status = 400 if "error" in answer else 200
        return self.json(answer, status)

    def stream(self, since):
        site = self.owner.site
        self.head(200, "text/event-stream")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()
        self.owner.streams += 1
        self.close_connection = True
        try:
            self.wfile.write(b": open\n\n")
            while self.owner.open:
                if site.version > since:
                    newer = {k: site.sections[k] for k, v in getattr(site, "changed", {}).items() if v > since}
                    since = site.version
                    data = json.dumps({"version": since, "sections": newer})
                    self.wfile.write(f"event: state\nid: {since}\ndata: {data}\n\n".encode())
                else:
                    self.wfile.write(b": ping\n\n")
                self.wfile.flush()
                time.sleep(0.02)
        except OSError:
            pass
        finally:
            self.owner.streams -= 1

    def json(self, tree, status=200):
        self.answer(status, "application/json", json.dumps(tree).encode())

    def head(self, status, kind):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Esper-Version", self.owner.version)

    def answer(self, status, kind, body):
        self.head(status, kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
