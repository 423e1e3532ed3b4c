"""Credentials within URIs, and text without them.

A storage is named by a URI that may hold credentials: ``s3://KEY:SECRET@bucket/runs`` or an option such as
``secret_key=...``. They are for the connection alone, so everything that is written or shown passes
:func:`without_credentials`. Options are shown only if they are known to hold none, and fragments are not shown.
"""

import re
from typing import NamedTuple
from urllib.parse import unquote

_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)(:|%3A)((?:/|%2F)+)([^\s'\"<>]+)", re.IGNORECASE)
"""Scheme, colon, slashes and rest of a URI, also of one with a wrong number of slashes or encoded signs."""
_BEGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*(:|%3A)(/|%2F)", re.IGNORECASE)
_HINT = re.compile(r"(:|%3A)(/|%2F)", re.IGNORECASE)
SHOWN_OPTIONS = frozenset(
    {
        *("region", "scheme", "endpoint_override", "allow_bucket_creation", "allow_bucket_deletion"),
        *("allow_delayed_open", "check_directory_existence_before_creation", "force_virtual_addressing"),
        *("tls_ca_file_path", "tls_ca_dir_path", "tls_verify_certificates", "smart_defaults"),
        *("retry_limit_seconds", "project_id", "replication", "buffer_size", "default_block_size"),
        *("enable_tls", "credential_kind", "blob_storage_authority", "dfs_storage_authority"),
        *("blob_storage_scheme", "dfs_storage_scheme"),
    }
)
"""Options of the file systems of pyarrow that hold no credential."""
_PARAMETER = re.compile(r"(?:;|%3B|%3F|%23)[^/?#]*?(?:=|%3D)[^?#]*", re.IGNORECASE)
"""Parameters within a path, also behind an encoded sign."""
_SPLIT = re.compile(r"&|;|%26|%3B", re.IGNORECASE)
_PORT = re.compile(r"\d*")
_CONTAINERS = ("abfs", "abfss", "wasb", "wasbs")
"""Schemes whose user is the container (Azure); only the password is a credential."""
_STORES = ("s3", "gs", "gcs", *_CONTAINERS)
"""Schemes whose host has no port."""
MASK = "***"
SHORTEST_SECRET = 4
"""Characters of the value of an option from which on it is masked where it stands alone."""


class _Parts(NamedTuple):
    """Parts of a URI."""

    user: str
    place: str
    """Host and path, without parameters."""
    options: list[str]
    hidden: list[str]
    """Parameters, and the fragment."""


def without_credentials(text: str) -> str:
    """``text`` without the credentials of the URIs in it: user and password, fragments and unknown options.

    The rest of a URI is unchanged, so that it still names the place.
    """
    return _URI.sub(_stripped, text) if _HINT.search(text) else text


def looks_like_uri(text: str) -> bool:
    """Whether ``text`` begins as a URI does, with any number of slashes: a path keeps one of two."""
    return _BEGIN.match(text) is not None


def has_credentials(text: str) -> bool:
    """Whether ``text`` holds a URI with credentials."""
    return without_credentials(text) != text


def masked(text: str, uri: str) -> str:
    """``text`` without URIs' credentials, and with those of ``uri`` masked where they stand alone."""
    text = without_credentials(text)
    for secret in sorted(_secrets(uri), key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


def _stripped(match: re.Match[str]) -> str:
    scheme, colon, slashes, _ = match.groups()
    parts = _parts(match)
    kept = parts.user.partition(":")[0] + "@" if parts.user and scheme.lower() in _CONTAINERS else ""
    plain = [option for option in parts.options if _is_shown(option)]
    return f"{scheme}{colon}{slashes}{kept}{parts.place}{'?' if plain else ''}{'&'.join(plain)}"


def _parts(match: re.Match[str]) -> _Parts:
    scheme, _, slashes, rest = match.groups()
    is_path = scheme.lower() == "file" and len(slashes) != len("//")
    user, rest = ("", rest) if is_path else _split_user(scheme.lower(), rest)
    rest, _, fragment = rest.partition("#")
    path, _, query = rest.partition("?")
    parameters = [] if is_path else _PARAMETER.findall(path)
    place = path if is_path else _PARAMETER.sub("", path)
    hidden = [word for text in (*parameters, fragment) for word in _SPLIT.split(text.lstrip(";")) if word]
    return _Parts(user, place, [option for option in _SPLIT.split(query) if option], hidden)


def _split_user(scheme: str, rest: str) -> tuple[str, str]:
    """User and password of a URI, and what follows the ``@``.

    A secret with a ``/``, ``?``, ``#`` or ``@`` that is not encoded is recognised by the colon before it.
    """
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        user, _, host = authority.rpartition("@")
        return user, host + rest[len(authority) :]
    _, colon, port = authority.partition(":")
    if not colon or (_PORT.fullmatch(port) and scheme not in _STORES):
        return "", rest
    for sign in ("@", "%40"):
        if sign in rest:
            user, _, place = rest.rpartition(sign)
            return user, place
    return (rest, "") if scheme in _STORES else ("", rest)


def _is_shown(option: str) -> bool:
    name, equals, value = option.partition("=")
    return bool(equals) and name in SHOWN_OPTIONS and "@" not in unquote(value)


def _secrets(uri: str) -> set[str]:
    """The credentials in ``uri``, as they stand there and decoded."""
    match = _URI.fullmatch(uri)
    if match is None:
        return set()
    parts = _parts(match)
    name, _, password = parts.user.partition(":")
    values = [password] if match[1].lower() in _CONTAINERS else [name, password]
    for option in (*parts.hidden, *(option for option in parts.options if not _is_shown(option))):
        value = option.partition("=")[2] or unquote(option).partition("=")[2]
        values += [value] if len(value) >= SHORTEST_SECRET else []
    return {form for value in values for form in (value, unquote(value)) if form}
