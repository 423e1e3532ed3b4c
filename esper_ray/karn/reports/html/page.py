"""The frame of a page: head, style, headline, list of its parts."""

from collections.abc import Sequence

from esper_ray.karn.reports.html.elements import Markup, joined, section, tag
from esper_ray.karn.reports.html.style import stylesheet

MOST_BYTES = 3 * 2**20
"""Greatest size of a page."""
SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""The page loads nothing, and runs no script, even if markup slipped through."""


def page(title: str, subtitle: str, parts: Sequence[tuple[str, str, Markup]]) -> str:
    """The text of a page.

    Args:
        parts: identifier, heading and content of each section.
    """
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=SECURITY_POLICY),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Markup(stylesheet())),
    )
    links = [tag("li", tag("a", heading, href=f"#{identifier}")) for identifier, heading, _ in parts]
    body = tag(
        "body",
        tag("header", tag("h1", title), tag("p", subtitle, class_="soft")),
        tag("nav", tag("ul", *links), aria_label="parts of the report"),
        tag("main", joined((section(*part) for part in parts), "\n")),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"
