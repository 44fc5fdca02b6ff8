"""A hook of mkdocs that turns the formulas of the pages into MathML, which browsers draw without a script."""

import html
import re

from latex2mathml.converter import convert

_MARKED = re.compile(r'<(?:span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</(?:span|div)>', re.DOTALL)


def on_page_content(content: str, **_: object) -> str:
    """Replaces what `pymdownx.arithmatex` has marked, within a line or on a line of its own."""
    return _MARKED.sub(
        lambda found: convert(html.unescape(found[2]), display="inline" if found[1] == "(" else "block"), content
    )
