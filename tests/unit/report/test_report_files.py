"""The files of a report: complete, self-contained, and never replaced silently."""

import csv
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dof_lightning.errors import UserError
from dof_lightning.report.command import report
from dof_lightning.report.store import ResultsStore
from tests.fixtures.report_stores import fill
from tests.fixtures.store_rows import point, record

HOSTILE = "_a<script>x</script>|`b`*c* $\\frac$ [d](http://e) ![f](http://g)\nh &lt; \\n~~i~~"


class Loads(HTMLParser):
    """The addresses that a page would fetch, and its anchors."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.linked: list[str] = []
        self.anchors: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        told = dict(attributes)
        self.anchors += [told["id"] or ""] if "id" in told else []
        if tag == "a":
            self.linked.append(told.get("href") or "")
        elif "src" in told or (tag in ("link", "image", "use") and not (told.get("xlink:href") or "#").startswith("#")):
            self.fetched.append(tag)


def test_the_page_needs_nothing_else_and_holds_every_table_and_figure(tmp_path: Path) -> None:
    paths = report([str(fill(tmp_path / "store")), f"output={tmp_path / 'out'}", "title=Spread & more"])
    text = (tmp_path / "out" / "report.html").read_text()
    page = Loads()
    page.feed(text)
    assert page.fetched == []
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert not re.search(r"@import|url\((?!#)", text)
    assert set(re.findall(r"[\w:]*=?.https?://[^\"\s<]*", text)) == {
        f'{name}="http://www.w3.org/{what}' for name, what in (("xmlns", "2000/svg"), ("xmlns:xlink", "1999/xlink"))
    }, "names of formats, which nothing loads"
    assert page.tags.count("svg") == len([path for path in paths if path.suffix == ".svg"]) == 7
    assert page.tags.count("table") == 6
    assert page.linked
    assert all(link.removeprefix("#") in page.anchors for link in page.linked)
    assert len(set(page.anchors)) == len(page.anchors), "an id twice"
    assert "Spread &amp; more" in text


def test_figures_of_the_page_follow_the_readers_colours_and_files_stand_on_white(tmp_path: Path) -> None:
    paths = report([str(fill(tmp_path / "store")), f"output={tmp_path / 'out'}"])
    text = (tmp_path / "out" / "report.html").read_text()
    assert "prefers-color-scheme: dark" in text
    for drawn in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        assert not re.search(r"(fill|stroke): (#000000|#ffffff|black|white)", drawn)
        assert "currentColor" in drawn
    for path in (path for path in paths if path.suffix == ".svg"):
        assert "currentColor" not in path.read_text()
        assert "fill: #ffffff" in path.read_text()


def test_markdown_names_pictures_that_are_there_and_latex_is_balanced(tmp_path: Path) -> None:
    report([str(fill(tmp_path / "store")), f"output={tmp_path / 'out'}"])
    markdown = (tmp_path / "out" / "report.md").read_text()
    pictures = re.findall(r"!\[.*\]\((.*)\)", markdown)
    assert len(pictures) == 7
    assert all((tmp_path / "out" / name).exists() for name in pictures)
    latex = (tmp_path / "out" / "report.tex").read_text()
    unescaped = re.sub(r"\\[{}]", "", latex)
    assert unescaped.count("{") == unescaped.count("}")
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 6
    assert not re.search(r"(?<!\\)[%#_]", latex)
    for table in latex.split(r"\begin{tabular}")[1:]:
        widths = {len(re.findall(r"(?<!\\)&", line)) for line in table.splitlines() if line.endswith(r"\\")}
        assert len(widths) == 1


def test_the_csv_holds_every_run_in_full(tmp_path: Path) -> None:
    report([str(fill(tmp_path / "store")), f"output={tmp_path / 'out'}", "formats=csv"])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.csv"]
    rows = list(csv.DictReader((tmp_path / "out" / "report.csv").open()))
    assert len(rows) == 12
    assert {float(row["last_score"]) for row in rows if row["method"] == "td3_bc"} == {40.0, 41, 42, 80, 81, 82}


def test_the_same_runs_give_the_same_files(tmp_path: Path) -> None:
    fill(tmp_path / "store")
    for name in ("one", "two"):
        report([str(tmp_path / "store"), f"output={tmp_path / name}"])
    one, two = ((tmp_path / name / "report.html").read_text() for name in ("one", "two"))
    assert one.replace("/one", "/two") == two


def test_what_users_called_things_is_shown_as_it_is_and_is_no_markup(tmp_path: Path) -> None:
    methods = ("dof_policy", HOSTILE)
    fill(tmp_path / "store", methods, device=HOSTILE, command=f"python train.py data={HOSTILE}")
    told = {"algorithm": HOSTILE, "dataset": "../../x", "dataset_fingerprint": "x", "config_hash": "x"}
    curve = [point(step, config_hash="x", dataset_fingerprint="x") for step in (1, 2)]
    ResultsStore(tmp_path / "store").append(record(**told), curve)
    paths = report([str(tmp_path / "store"), f"output={tmp_path / 'out'}", f"title={HOSTILE}"])
    assert all(path.resolve().is_relative_to(tmp_path / "out") for path in paths)
    page, text = ((tmp_path / "out" / f"report.{kind}").read_text() for kind in ("html", "md"))
    assert "<script" not in page
    outside_code = re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "", text)
    assert "<script" not in outside_code
    assert set(re.findall(r"(?<!\\)\]\((.+?)\)", outside_code)) == {
        f"report_figures/{path.name}" for path in paths if path.suffix == ".svg"
    }
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    assert sum(line.startswith("|") for line in text.splitlines()) == page.count("<tr>") + page.count("<table>")
    for path in (path for path in paths if path.suffix == ".svg"):
        assert "a&lt;script&gt;x" in path.read_text()


def test_nothing_is_overwritten_that_was_not_said_to_be(tmp_path: Path) -> None:
    told = [str(fill(tmp_path / "store")), f"output={tmp_path}", "formats=latex,csv"]
    (tmp_path / "report.csv").write_text("mine")
    with pytest.raises(UserError, match=r"report.csv exists already; .* overwrite=true"):
        report(told)
    assert (tmp_path / "report.csv").read_text() == "mine"
    assert not (tmp_path / "report.tex").exists()
    report([*told, "name=other"])
    report([*told, "overwrite=true"])
    assert (tmp_path / "report.csv").read_text() == (tmp_path / "other.csv").read_text()
