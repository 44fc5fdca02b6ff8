"""The documentation builds as a site without a warning, and can be read without a network."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.workplace import ROOT, succeeded

pytest.importorskip("material", reason="[docs] and [dev] have it")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target)]
    here = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    succeeded(subprocess.run(command, cwd=ROOT, env=here, capture_output=True, text=True, timeout=280))
    return target


def shown(site: Path, source: Path) -> str:
    """The page that is made of a file in docs/."""
    page = site / source.relative_to(ROOT / "docs").with_suffix(".html")
    return (page.with_name("index.html") if source.stem == "README" else page).read_text(encoding="utf-8")


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    loaded = [
        address
        for page in pages
        for tag in re.findall(r"<(?:script|img|link|iframe|source)\b[^>]*>", page.read_text(encoding="utf-8"))
        for address in re.findall(r'(?:src|href)="((?:https?:)?//[^"]*)"', tag)
    ]
    assert loaded == []


def test_pictures_say_what_is_in_them(site: Path) -> None:
    pictures = [
        tag for page in site.rglob("*.html") for tag in re.findall(r"<img\b[^>]*>", page.read_text(encoding="utf-8"))
    ]
    assert len(pictures) > 20
    assert [tag for tag in pictures if not re.search(r'alt="[^"]{10,}"', tag)] == []


def test_formulas_are_drawn_by_the_browser_alone(site: Path) -> None:
    sources = {page: page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "method").glob("*.md")}
    meant = {page: len(re.findall(r"\$\$.+?\$\$|\$[^$\n]+\$", text, flags=re.DOTALL)) for page, text in sources.items()}
    assert sum(meant.values()) > 100
    for page, formulas in meant.items():
        drawn = re.findall(r"<math.*?</math>", shown(site, page))
        assert len(drawn) == formulas, page.name
        assert [formula for formula in drawn if "\\" in formula] == [], "LaTeX that was not understood"


def test_numbers_stay_on_one_line_and_code_as_it_is_typed(site: Path) -> None:
    for page in (path for path in site.rglob("*.html") if path.name != "404.html"):
        article = re.search(r"<article.*?</article>", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert article is not None
        code = re.compile(r"<(pre|code)\b.*?</\1>", flags=re.DOTALL)
        assert not re.search(r"\d \d{3}\b", code.sub("", article[0])), page
        assert not any("\N{NO-BREAK SPACE}" in found[0] for found in code.finditer(article[0])), page


def test_numbered_steps_stay_one_list(site: Path) -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        lists = re.findall(r"^1\. ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert shown(site, page).count("<ol>") == len(lists), page.name


def test_links_lead_to_files_so_that_the_site_opens_from_disk(site: Path) -> None:
    for page in (path for path in site.rglob("*.html") if path.name != "404.html"):
        links = re.findall(r'<a\b[^>]*?\shref="([^"#]+)', page.read_text(encoding="utf-8"))
        assert [link for link in links if "://" not in link and not (page.parent / link).is_file()] == [], page


def test_search_finds_pages_keys_and_classes(site: Path) -> None:
    found = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))["docs"]
    text = {entry["location"]: f"{entry['title']} {entry['text']}" for entry in found}
    assert "q_balance" in " ".join(said for place, said in text.items() if place.startswith("reference/configuration"))
    assert any("DoFPolicySettings" in said for place, said in text.items() if place.startswith("reference/api"))
    assert {place.partition("/")[0] for place in text} >= {"get_started", "guide", "method", "results", "reference"}
