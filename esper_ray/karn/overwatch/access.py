"""Who may use the server: allowed hosts, methods, origins, the token, and the headers of every answer."""

import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from esper_ray.leyline.errors import UsageError, shortened

TOKEN_VARIABLE = "ESPER_OVERWATCH_TOKEN"
LEAST_TOKEN = 16
"""Least number of characters of a token."""
MOST_TOKEN_BYTES = 4096
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
OPEN_PATHS = ("/healthz", "/login")
"""Paths without a token, beside the files below ``/static/``."""
_NAME = re.compile(r"[a-z0-9_.:%-]{1,253}")


def is_loopback(host: str) -> bool:
    """Whether a server on ``host`` is reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_token(file: Path | None, variable: str | None) -> str | None:
    """The token of the user, from ``file`` or an environment variable. ``None`` without either.

    Raises:
        UsageError: if the file cannot be read, or the token is too short or not of visible ASCII characters.
    """
    if file is None and not variable:
        return None
    if file is not None:
        try:
            with file.open("rb") as opened:
                text = opened.read(MOST_TOKEN_BYTES).decode("ascii", "replace")
        except OSError as error:
            raise UsageError(f"--token-file {file} cannot be read: {error.strerror or error}") from error
        source, text = f"the token in --token-file {file}", text.strip()
    else:
        source, text = f"the token in {TOKEN_VARIABLE}", (variable or "").strip()
    if len(text) < LEAST_TOKEN:
        raise UsageError(f"{source} has {len(text)} characters, at least {LEAST_TOKEN} are needed")
    if not all("!" <= letter <= "~" for letter in text):
        raise UsageError(f"{source} has other characters than visible ASCII")
    return text


def drawn_token() -> str:
    """A new random token."""
    return secrets.token_urlsafe(32)


@dataclass(frozen=True, slots=True)
class Access:
    """Rules of one server."""

    host: str
    """Address that it listens on."""
    port: int
    token: str | None = field(default=None, repr=False)
    """``None``: no token is needed."""
    allowed_hosts: tuple[str, ...] = ()
    """Further names by which it may be called."""

    @property
    def cookie(self) -> str:
        """Name of the cookie. Cookies are shared by the ports of a machine, so it has the port."""
        return f"esper_overwatch_{self.port}"

    @property
    def cookie_value(self) -> str:
        """Value of the cookie, which is not the token."""
        return hmac.new((self.token or "").encode(), b"esper overwatch cookie", hashlib.sha256).hexdigest()

    def is_token(self, text: str) -> bool:
        """Whether ``text`` is the token. The time that it takes does not depend on the text."""
        digest = hashlib.sha256(text.encode()).digest()
        return self.token is not None and hmac.compare_digest(digest, hashlib.sha256(self.token.encode()).digest())

    def is_allowed_host(self, header: str) -> bool:
        """Whether a ``Host`` header names this server. The port may be that of a tunnel.

        On an address that others reach, any IP address is allowed: no name of another site leads to it.
        """
        name = host_name(header)
        if name is None:
            return False
        if name in self.allowed_hosts or name == self.host.lower() or is_loopback(name):
            return True
        if is_loopback(self.host):
            return False
        return _is_address(name) or name in (socket.gethostname().lower(), socket.getfqdn().lower())

    def is_allowed_origin(self, origin: str | None, host: str) -> bool:
        """Whether a POST comes from a page of this server, or from none."""
        if origin is None:
            return True
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https"):
            return False
        return parts.netloc.lower() == host.lower() or host_name(parts.netloc) in self.allowed_hosts

    def knows(self, connection: HTTPConnection) -> bool:
        """Whether a request has the token, or the cookie of the login."""
        if self.token is None:
            return True
        scheme, _, value = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.is_token(value.strip()):
            return True
        cookie = connection.cookies.get(self.cookie, "")
        return hmac.compare_digest(cookie.encode(), self.cookie_value.encode())

    def login(self, response: Response, *, root: str, secure: bool) -> None:
        """Set the cookie in ``response``."""
        path = root or "/"
        response.set_cookie(self.cookie, self.cookie_value, path=path, httponly=True, samesite="strict", secure=secure)


def host_name(header: str) -> str | None:
    """Name in a ``Host`` header in lower case, without port and brackets.

    ``None`` if it is not one.
    """
    try:
        parts = urlsplit(f"//{header}")
        if parts.netloc != header or parts.username is not None or not parts.hostname:
            return None
        _ = parts.port
    except ValueError:
        return None
    name = parts.hostname.rstrip(".")
    return name if _NAME.fullmatch(name) else None


def checked_hosts(hosts: Sequence[str]) -> tuple[str, ...]:
    """Names of ``--allowed-host``, in lower case.

    Raises:
        UsageError: if one is not a name.
    """
    names = []
    for host in hosts:
        name = host_name(host)
        if name is None or name != host.lower().strip("[]").rstrip("."):
            raise UsageError(f"--allowed-host {shortened(host)}: it must be a name or an address without a port")
        names.append(name)
    return tuple(names)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class AccessMiddleware:
    """Check of every request, before anything else sees it."""

    def __init__(self, app: ASGIApp, access: Access, root: str, posts: Collection[str]) -> None:
        """
        Args:
            root: prefix of every path, such as ``/overwatch``; empty without one.
            posts: last parts of the paths that accept POST.
        """
        self._app, self._access, self._root, self._posts = app, access, root, tuple(posts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = self._placed(scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _placed(self, scope: Scope) -> Scope:
        """The request with the prefix in its path, which a proxy may have removed."""
        path = scope["path"]
        if self._root and path != self._root and not path.startswith(f"{self._root}/"):
            path = f"{self._root}{path}"
        return {**scope, "path": path, "root_path": self._root}

    def _refusal(self, scope: Scope) -> Response | None:
        """The answer to a request that is not passed on."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._access.is_allowed_host(hosts[0]):
            text = "this server is not called by that name; --allowed-host NAME allows another one"
            return PlainTextResponse(text, 400)
        path = scope["path"].removeprefix(self._root) or "/"
        method = scope["method"]
        if method == "POST" and path.endswith(self._posts):
            if not self._access.is_allowed_origin(headers.get("origin"), hosts[0]):
                return JSONResponse(refusal_tree("the request comes from a page of another site"), 403)
        elif method not in ("GET", "HEAD"):
            return JSONResponse(refusal_tree(f"{method} is not allowed here"), 405, headers={"allow": "GET, HEAD"})
        if path in OPEN_PATHS or path.startswith("/static/") or self._access.knows(HTTPConnection(scope)):
            return None
        if path.startswith("/api/") or method == "POST":
            tree = refusal_tree("a token is needed: send it as `Authorization: Bearer TOKEN`, or log in at /login")
            return JSONResponse(tree, 401, headers={"www-authenticate": "Bearer"})
        query = scope.get("query_string", b"").decode("latin-1")
        target = f"{path}?{query}" if query else path
        return RedirectResponse(f"{self._root}/login?next={quote(target, safe='')}", 303)


def refusal_tree(error: str, nearest: str | None = None, command: str | None = None) -> dict[str, str | None]:
    """Body of an answer that is an error."""
    return {"error": error, "nearest": nearest, "command": command}


def local_target(text: str) -> str:
    """A path of this server from a parameter of a URL. It is ``/`` if it is anything else."""
    is_path = text.startswith("/") and not text.startswith(("//", "/\\"))
    return text if is_path and text.isprintable() and text.isascii() and "\\" not in text else "/"
