"""The files of a report: users' names are no markup and no path in them, and none is replaced in silence."""

import re
from pathlib import Path

import pytest

from dof_lightning.errors import UserError
from dof_lightning.report.command import report
from dof_lightning.report.store import ResultsStore
from tests.fixtures.report_stores import fill
from tests.fixtures.store_rows import point, record

HOSTILE = "_a<script>x</script>|`b`*c* $\\frac$ [d](http://e) ![f](http://g)\nh &lt; \\n~~i~~"


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
    with pytest.raises(UserError, match=r"report.csv is there already; .* overwrite=true"):
        report(told)
    assert (tmp_path / "report.csv").read_text() == "mine"
    assert not (tmp_path / "report.tex").exists()
    report([*told, "name=other"])
    report([*told, "overwrite=true"])
    assert (tmp_path / "report.csv").read_text() == (tmp_path / "other.csv").read_text()
