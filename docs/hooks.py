"""Hooks of mkdocs: formulas become MathML, which browsers draw without a script, and numbers stay on one line."""

import html
import re

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(?:span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</(?:span|div)>', re.DOTALL)
_TEXT = re.compile(r"(?:\A|(?<=</pre>)|(?<=</code>)).*?(?=<pre|<code|\Z)", re.DOTALL)


def on_page_content(content: str, **_: object) -> str:
    """Draws what `pymdownx.arithmatex` has marked, and joins the digits of 1 000 by a space that never breaks."""
    joined = _TEXT.sub(lambda found: re.sub(r"(?<=\d) (?=\d{3}\b)", "\N{NO-BREAK SPACE}", found[0]), content)
    return _FORMULA.sub(lambda found: _drawn(found[2], "inline" if found[1] == "(" else "block"), joined)


def _drawn(formula: str, display: str) -> str:
    return convert(html.unescape(formula), display=display)
