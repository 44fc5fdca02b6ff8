"""A report as Markdown, LaTeX, CSV, and one HTML page that needs nothing else."""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

from dof_lightning.files import to_markdown
from dof_lightning.report.figures import Picture
from dof_lightning.report.tables import Table


@dataclass(frozen=True)
class Report:
    """What is rendered; `command` made it."""

    title: str
    command: str
    tables: tuple[Table, ...]
    pictures: tuple[Picture, ...]


def markdown(report: Report, images: str) -> str:
    """Markdown whose pictures lie in the folder `images`, a relative path."""
    parts = [f"# {_plain(report.title)}\n\nMade by {_code(report.command)}.\n"]
    parts += [_markdown_table(table) for table in report.tables]
    parts += [
        f"\n## {_plain(picture.title)}\n\n![{_plain(picture.title)}]({images}/{picture.name}.svg)\n\n"
        f"{_prose(picture.caption)}\n"
        for picture in report.pictures
    ]
    return "".join(parts)


def _markdown_table(table: Table) -> str:
    rows = [[_markdown_cell(cell) for cell in row] for row in table.rows]
    note = f"\n{_prose(table.note)}\n" if table.note else ""
    return f"\n## {_plain(table.title)}\n\n{to_markdown([_plain(name) for name in table.columns], rows)}{note}"


def _markdown_cell(cell: str) -> str:
    told = _code(cell) if cell.startswith("python ") else _plain(cell)
    return told.replace("|", r"\|")


def _prose(text: str) -> str:
    """Our own sentences, *emphasis* in them, with names that users chose: no tag, no link, no picture, one line."""
    return re.sub(r"&(?=[#\w])", "&amp;", " ".join(text.split())).replace("<", "&lt;").replace("](", r"]\(")


def _plain(text: str) -> str:
    """Text that shows as it is, whatever it holds."""
    return _prose(re.sub(r"[\\`*~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text))


def _code(text: str) -> str:
    """A code span, which ends nowhere in the text."""
    told = " ".join(text.splitlines())
    fence = "`" * (1 + max(map(len, re.findall("`+", told)), default=0))
    return f"{fence}{told}{fence}" if len(fence) == 1 else f"{fence} {told} {fence}"


def latex(tables: Sequence[Table]) -> str:
    """A `table` environment each; needs the package `booktabs` only."""
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
    """One HTML page, without a script, that loads nothing."""
    entries = [*((_anchor(t.title), t.title) for t in report.tables), *((p.name, p.title) for p in report.pictures)]
    contents = "".join(f'<li><a href="#{anchor}">{html.escape(title)}</a></li>' for anchor, title in entries)
    tables = "".join(map(_html_table, report.tables))
    pictures = "".join(
        f'<section id="{picture.name}"><h2>{html.escape(picture.title)}</h2><figure>{picture.svg()}'
        f"<figcaption>{html.escape(picture.caption)}</figcaption></figure></section>"
        for picture in report.pictures
    )
    title = html.escape(report.title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body><h1>{title}</h1>'
        f"<p>Made by <code>{html.escape(report.command)}</code>.</p><nav><ol>{contents}</ol></nav>"
        f"{tables}{pictures}</body></html>\n"
    )


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    body = "".join("<tr>" + "".join(map(_html_cell, row)) + "</tr>" for row in table.rows)
    note = f"<p>{_inline(table.note)}</p>" if table.note else ""
    return (
        f'<section id="{_anchor(table.title)}"><h2>{html.escape(table.title)}</h2><div class="wide"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{note}</section>"
    )


def _html_cell(cell: str) -> str:
    told = html.escape(cell)
    return f"<td><code>{told}</code></td>" if cell.startswith("python ") else f"<td>{told}</td>"


def _inline(text: str) -> str:
    """Escaped, with *emphasis*."""
    return re.sub(r"\*(.+?)\*", r"<em>\1</em>", html.escape(text))


def _anchor(title: str) -> str:
    return re.sub(r"\W+", "_", title).strip("_").lower()


_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
nav ol { columns: 2; padding-left: 1.4rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
tbody tr:hover { background: var(--soft); }
figure { margin: 0; background: white; color: black; border-radius: 6px; padding: .5rem; }
figcaption, section > p { font-size: .9rem; max-width: 60rem; }
figure svg { max-width: 100%; height: auto; }
code { font-size: .85em; }
"""
