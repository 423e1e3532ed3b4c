"""Fake Grafana server with the part of its HTTP interface that we use."""

import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs

from grafana_schema import changed_in_dashboard, changed_in_rule

TOKEN = "glsa_right"


class FakeGrafana:
    """Folders, dashboards and rule groups by identifier, and a list of all requests."""

    def __init__(self, datasources):
        self.datasources = datasources
        self.folders, self.dashboards, self.groups, self.requests = {}, {}, {}, []
        self.annotations = {}
        self.forbidden = False

    def answer(self, method, path, token, body):
        """Status and content."""
        self.requests.append((method, path))
        if token != f"Bearer {TOKEN}":
            return 401, {"message": "Invalid API key"}
        if self.forbidden and method != "GET":
            return 403, {"message": "You'll need additional permissions"}
        path, _, query = path.partition("?")
        match (method, path.strip("/").split("/")):
            case ("GET", ["api", "annotations"]):
                return 200, self._annotations(parse_qs(query))
            case ("POST", ["api", "annotations"]):
                return self._annotate(body)
            case ("DELETE", ["api", "annotations", number]):
                removed = self.annotations.pop(int(number), None)
                return (200, {"message": "Annotation deleted"}) if removed else (404, {"message": "not found"})
            case ("GET", ["api", "datasources"]):
                return 200, self.datasources
            case ("GET", ["api", "folders", uid]):
                return (200, self.folders[uid]) if uid in self.folders else (404, {"message": "folder not found"})
            case ("POST", ["api", "folders"]):
                if body["uid"] in self.folders:
                    return 412, {"message": "a folder with that UID already exists"}
                self.folders[body["uid"]] = {"uid": body["uid"], "title": body["title"]}
                return 200, self.folders[body["uid"]]
            case ("POST", ["api", "dashboards", "db"]):
                return self._dashboard(body)
            case ("PUT", ["api", "v1", "provisioning", "folder", folder, "rule-groups", group]):
                return self._group(folder, group, body)
        return 404, {"message": "Not found"}

    def _annotations(self, query):
        """Annotations with all tags of the query, newest first; default limit 100."""
        tags = set(query.get("tags", []))
        matching = [annotation for annotation in self.annotations.values() if tags <= set(annotation["tags"])]
        newest = sorted(matching, key=lambda annotation: -annotation["time"])
        return newest[: int(query.get("limit", ["100"])[0])]

    def _annotate(self, body):
        if not body["text"] or not all(isinstance(body[name], int) for name in ("time", "timeEnd")):
            return 400, {"message": "text and times in milliseconds are needed"}
        number = max(self.annotations, default=0) + 1
        content = {name: body[name] for name in ("time", "timeEnd", "text")}
        self.annotations[number] = {"id": number, **content, "tags": sorted(body["tags"]), "panelId": 0}
        return 200, {"message": "Annotation added", "id": number}

    def _dashboard(self, body):
        board = body["dashboard"]
        if body["folderUid"] not in self.folders:
            return 400, {"message": "folder not found"}
        if board["uid"] in self.dashboards and not body.get("overwrite"):
            return 412, {"message": "a dashboard with the same uid exists"}
        if board.get("id") is not None:
            return 400, {"message": "id must be null"}
        if unknown := changed_in_dashboard(board):
            return 400, {"message": f"no such fields: {unknown}"}
        self.dashboards[board["uid"]] = body
        return 200, {"uid": board["uid"], "url": f"/d/{board['uid']}/esper-ray", "status": "success"}

    def _group(self, folder, group, body):
        if folder not in self.folders:
            return 404, {"message": "folder not found"}
        for rule in body["rules"]:
            refs = [query["refId"] for query in rule["data"]]
            if rule["condition"] not in refs or rule["folderUID"] != folder or len(rule["uid"]) > 40:
                return 400, {"message": f"invalid rule {rule['title']}"}
            if unknown := changed_in_rule(rule):
                return 400, {"message": f"no such fields of rule {rule['title']}: {unknown}"}
        self.groups[folder, group] = body
        return 200, body


@contextmanager
def running(grafana):
    """The server on a free port; its address."""

    class Handler(BaseHTTPRequestHandler):
        def respond(self):
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            status, content = grafana.answer(self.command, self.path, self.headers.get("Authorization"), body)
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_DELETE = respond

        def log_message(self, *arguments):
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
