"""Rendering of a report as Markdown, LaTeX, and one self-contained HTML page."""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

from dof_lightning.files import to_markdown
from dof_lightning.report.figures import Picture
from dof_lightning.report.tables import Table


@dataclass(frozen=True)
class Report:
    """A report to be rendered.

    Attributes:
        title: title of the page.
        command: the command that made it.
        parts: its parts, in the order of the page.
    """

    title: str
    command: str
    parts: tuple[Table | Picture, ...]

    @property
    def tables(self) -> list[Table]:
        """The parts that are tables."""
        return [part for part in self.parts if isinstance(part, Table)]

    @property
    def pictures(self) -> list[Picture]:
        """The parts that are pictures."""
        return [part for part in self.parts if isinstance(part, Picture)]


def markdown(report: Report, images: str) -> str:
    """Renders Markdown whose pictures lie in the folder `images`, a relative path."""
    parts = [f"# {_plain(report.title)}\n\nMade by {_code(report.command)}.\n"]
    for part in report.parts:
        parts.append(_markdown_table(part) if isinstance(part, Table) else _markdown_picture(part, images))
    return "".join(parts)


def _markdown_picture(picture: Picture, images: str) -> str:
    panels = "\n".join(f"![{_plain(panel.title)}]({images}/{panel.name}.svg)" for panel in picture.panels)
    items = "".join(f"\n* {_prose(sentence)}" for sentence in picture.sentences)
    return f"\n## {_plain(picture.title)}\n\n{panels}\n\n{_prose(picture.caption)}\n" + (f"{items}\n" if items else "")


def _markdown_table(table: Table) -> str:
    rows = [[_markdown_cell(cell) for cell in row] for row in table.rows]
    note = f"\n{_prose(table.note)}\n" if table.note else ""
    return f"\n## {_plain(table.title)}\n\n{to_markdown([_plain(name) for name in table.columns], rows)}{note}"


def _markdown_cell(cell: str) -> str:
    text = _code(cell) if cell.startswith("python ") else _plain(cell)
    return text.replace("|", r"\|")


def _prose(text: str) -> str:
    """Escapes our own sentences with *emphasis* and names chosen by users: no tag, link or picture, one line."""
    return re.sub(r"&(?=[#\w])", "&amp;", " ".join(text.split())).replace("<", "&lt;").replace("](", r"]\(")


def _plain(text: str) -> str:
    """Escapes text so that it is shown literally."""
    return _prose(re.sub(r"[\\`*~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text))


def _code(text: str) -> str:
    """Makes a code span whose fence does not occur in the text."""
    line = " ".join(text.splitlines())
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{fence}{line}{fence}" if len(fence) == 1 else f"{fence} {line} {fence}"


def latex(tables: Sequence[Table]) -> str:
    """Renders a `table` environment per table; needs only the package `booktabs`."""
    return "\n".join(map(_latex_table, tables))


def _latex_table(table: Table) -> str:
    columns = "l" * len(table.columns)
    lines = [" & ".join(map(_latex, row)) + r" \\" for row in (table.columns, *table.rows)]
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{_latex(table.title)}. {_latex(table.note)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "τ": r"$\tau$",
}
_LATEX |= {letter: f"\\{letter}" for letter in "&%$#_{}"}


def _latex(text: str) -> str:
    escaped = "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))
    return re.sub(r"\*(.+?)\*", r"\\emph{\1}", escaped)


def page(report: Report) -> str:
    """Renders one HTML page, without scripts or downloads, in the reader's light or dark mode, down to a phone."""
    contents = "".join(f'<li><a href="#{_anchor(part)}">{html.escape(part.title)}</a></li>' for part in report.parts)
    first, *rest = [_html_table(part) if isinstance(part, Table) else _html_picture(part) for part in report.parts]
    title = html.escape(report.title)
    body = [
        f"<h1>{title}</h1>",
        first,
        f"<nav><details><summary>Contents</summary><ol>{contents}</ol></details></nav>",
        *rest,
        f"<footer>Made by <code>{html.escape(report.command)}</code>.</footer>",
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body>{''.join(body)}</body></html>\n"
    )


def _html_picture(picture: Picture) -> str:
    panels = "".join(
        f'<figure role="img" aria-label="{html.escape(panel.title)}">{panel.inline()}</figure>'
        for panel in picture.panels
    )
    sentences = "".join(f"<li>{_inline(sentence)}</li>" for sentence in picture.sentences)
    return (
        f'<section id="{_anchor(picture)}"><h2>{html.escape(picture.title)}</h2><div class="panels">{panels}</div>'
        f"<p>{_inline(picture.caption)}</p>{f'<ul>{sentences}</ul>' if sentences else ''}</section>"
    )


def _html_table(table: Table) -> str:
    head = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in table.columns)
    body = "".join(f"<tr>{_html_name(row[0])}{''.join(map(_html_cell, row[1:]))}</tr>" for row in table.rows)
    note = f"<p>{_inline(table.note)}</p>" if table.note else ""
    return (
        f'<section id="{_anchor(table)}"><h2>{html.escape(table.title)}</h2><div class="wide" tabindex="0">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{note}</section>"
    )


def _html_name(cell: str) -> str:
    """The name of a row; a long one may break after an underscore."""
    return f'<th scope="row">{html.escape(cell).replace("_", "_<wbr>")}</th>'


def _html_cell(cell: str) -> str:
    text = html.escape(cell)
    return f"<td><code>{text}</code></td>" if cell.startswith("python ") else f"<td>{text}</td>"


def _inline(text: str) -> str:
    """Escapes text for HTML, with *emphasis*."""
    return re.sub(r"\*(.+?)\*", r"<em>\1</em>", html.escape(text))


def _anchor(part: Table | Picture) -> str:
    return re.sub(r"\W+", "_", part.title).strip("_").lower()


_STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1b1f24; --link: #1f5fd0; --line: #d5d9de; --soft: #f3f5f7; }
@media (prefers-color-scheme: dark) {
  :root { --page: #15181c; --text: #dfe3e8; --link: #7aa7ff; --line: #3a4048; --soft: #20252b; }
}
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 86rem; margin: 0 auto; padding: 1.2rem 1rem 3rem;
  background: var(--page); color: var(--text); overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; } h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; }
a { color: var(--link); } code { font-size: .85em; }
section > p, section > ul, footer { font-size: .93rem; max-width: 60rem; }
section > ul { padding-left: 1.2rem; } wbr { display: none; }
nav { margin-top: 2rem; } nav ol { columns: 22rem; padding-left: 2rem; } summary { cursor: pointer; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: .8rem; }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; max-width: max-content; }
table { border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: left; white-space: nowrap; background: var(--page); }
tbody th, tbody td { border-top: 1px solid var(--line); }
thead th { background: var(--soft); font-weight: 600; } tbody th { font-weight: 500; }
tr > :first-child { position: sticky; left: 0; z-index: 1; border-right: 1px solid var(--line); }
tbody tr:hover > * { background: var(--soft); }
td code { display: block; min-width: 42rem; white-space: normal; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 25rem), 1fr)); gap: 1rem 1.5rem; }
figure { margin: 0; } figure svg { width: 100%; max-width: 34rem; height: auto; }
figure svg text { fill: currentColor; }
@media (max-width: 40rem) {
  body { font-size: 14px; padding: .6rem .7rem 2rem; } h1 { font-size: 1.4rem; }
  th, td { padding: .25rem .5rem; } tr > :first-child { min-width: 7.5rem; white-space: normal; }
  wbr { display: inline; }
  td code { min-width: 24rem; }
}
"""
