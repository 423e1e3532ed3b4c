"""Hooks of the site: cross-references of docstrings (``:func:`train```) become plain code."""

import re
from typing import Any

_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):<code>(~?)([\w.]+)</code>")


def on_page_content(html: str, **_: Any) -> str:
    """The page without roles. A name with a tilde is shortened to its last part."""
    html = _ROLE.sub(
        lambda match: f"<code>{match[2].rpartition('.')[2] if match[1] else match[2]}</code>",
        html,
    )
    return re.sub(r"::</p>(\s*<(?:div|pre))", r":</p>\1", html)
