"""The README's commands do what it claims, and the files for contributors are correct."""

import re
import shlex
import shutil
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from dof_lightning import __version__
from dof_lightning.config import catalog, checks
from dof_lightning.config import compose as configuration
from dof_lightning.errors import UserError

ROOT = catalog.CONF_DIR.parent
README = (ROOT / "README.md").read_text()
OURS = ("dof_policy", "dof_trajectory", "dof_cloning_seeds_4")  # the first that has run on a dataset
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
BASH_BLOCKS = re.findall(r"^```bash\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
TYPED = README + (ROOT / "docs" / "guide" / "cli.md").read_text()
TRAINING_COMMANDS = sorted(
    {line.partition("  #")[0].strip() for line in re.findall(r"python train\.py (?!-m ).*=.*", TYPED)}
)


def test_there_are_two_blocks_to_run_the_main_job_and_the_tests() -> None:
    assert len(BASH_BLOCKS) == 2
    main_job, tests = BASH_BLOCKS
    assert "python train.py experiment=mpe_spread_expert" in main_job
    assert "python -m tests" in tests
    for block in BASH_BLOCKS:
        assert "pip install -c constraints.txt -e " in block
        assert (ROOT / "constraints.txt").is_file()


@pytest.mark.parametrize("command", TRAINING_COMMANDS)
def test_training_commands_compose(command: str) -> None:
    overrides = shlex.split(command.partition("`")[0])[2:]
    checks.check(configuration.compose(overrides))


def test_the_page_of_help_is_ours_and_what_it_names_composes() -> None:
    page = yaml.safe_load((catalog.CONF_DIR / "train.yaml").read_text(encoding="utf-8"))["hydra"]["help"]["template"]
    typed, examples = page.partition("Examples:")[0], re.findall(r"train\.py (.*)", page.partition("Examples:")[2])
    overrides = [line.split()[0] for line in typed.splitlines() if re.match(r"  \w\S*=\S+  ", line)]
    assert len(overrides) == 10
    for override in overrides:
        configuration.compose([overrides[0], override])
    assert len(examples) == 5
    for example in examples:
        words = [word.replace("1,3", "3") for word in shlex.split(example) if word != "-m"]
        checks.check(configuration.compose(words))
    assert max(map(len, page.splitlines())) <= 110
    named = re.findall(r"[a-z_]+", re.search(r"others are (.*?)--cfg", page, flags=re.DOTALL)[1])  # type: ignore[index]
    assert set(named) <= set(catalog.groups())
    with pytest.raises(UserError, match=r"algorithm=\? does not exist; choose one of bc, "):
        configuration.compose([overrides[0], "algorithm=?"])


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere_and_nothing_is_left_to_fill_in(page: Path) -> None:
    text = page.read_text()
    assert not re.search(r"@@\w*@@|^[A-Z_]*TABLE$|\bTODO\b|\bTBD\b", text, flags=re.MULTILINE)
    links = [*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r"(?:src|href)=\"([^\"]+)\"", text)]
    files = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:", link)]
    assert [name for name in files if name and not (page.parent / name).exists()] == []
    for name, _, anchor in (link.partition("#") for link in links if re.match(r"[^:]*#", link)):
        titles = re.findall("^#+ (.*)", ((page.parent / name) if name else page).read_text(), flags=re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, anchor


def of_record() -> dict[str, dict[str, str]]:
    """By dataset and method, the score of the last checkpoint in docs/results/record.md."""
    scores: dict[str, dict[str, str]] = {}
    page = (ROOT / "docs" / "results" / "record.md").read_text()
    for section in re.findall(r"^## (\w+: .*?)(?=^## |\Z)", page, flags=re.MULTILINE | re.DOTALL):
        table = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"
        ]
        for column, title in enumerate(table[0] if table else ()):
            if title.endswith(", last"):
                dataset = f"{section.partition(':')[0]}_{title.removesuffix(', last').replace(' ', '_')}"
                cells = {row[0]: row[column].partition(" (")[0] for row in table[2:]}
                scores[dataset] = {method: cell for method, cell in cells.items() if cell not in ("", "-")}
    return scores


def test_the_table_of_results_is_that_of_the_record() -> None:
    record, rows = (
        of_record(),
        re.findall(r"^\| `(\w+_\w+)`.*?\| (.*?) \| (.*?) \| `(\w+)` (.*?) \|$", README, re.MULTILINE),
    )
    assert len(rows) == 9
    for dataset, data, ours, other, theirs in rows:
        scores = record[dataset]
        assert data == scores.pop("the data's behaviour")
        assert ours == next(scores[name] for name in OURS if name in scores)
        others = {method: cell for method, cell in scores.items() if not method.startswith("dof_")}
        best = max(others.values(), key=lambda cell: float(cell.partition(" ")[0]))
        assert others[other] == theirs
        assert theirs == best


def test_the_readme_fits_two_screens() -> None:
    assert len(README.splitlines()) <= 120


def test_pages_that_code_and_configuration_name_are_there() -> None:
    folders = ("conf", "dof_lightning", "data_modules", "callbacks", "benchmarks", "examples", "tests")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".yaml")]
    named = {
        (page, path.relative_to(ROOT).as_posix())
        for path in [*files, *ROOT.glob("*.*l"), *ROOT.glob("*.md"), ROOT / "Makefile"]
        for page in re.findall(r"\bdocs/[\w/]+\.md\b", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 20
    assert sorted(pair for pair in named if not (ROOT / pair[0]).is_file()) == []


def test_constraints_pin_every_dependency_exactly_and_name_no_place() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines)
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    wanted = re.findall(r'^    "([A-Za-z0-9-]+)[><=!]', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert {name.lower() for name in wanted} <= pinned
    assert "torch==2.13.0" in lines


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
def test_make_record_is_the_command_that_the_page_says_it_was_made_by() -> None:
    told = subprocess.run(["make", "-n", "record"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    page = (ROOT / "docs" / "results" / "record.md").read_text()
    made_by = re.search(r"^Made by `(.*)`\.$", page, flags=re.MULTILINE)
    assert made_by is not None
    assert shlex.split(told) == shlex.split(made_by[1])


def test_every_pin_runs_on_the_oldest_python_that_is_promised() -> None:
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    pins = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text().lower(), flags=re.MULTILINE)
    installed = {package.name.lower().replace("_", "-"): package.metadata for package in metadata.distributions()}
    needs = {name: installed[name].json.get("requires_python") for name in pins if name in installed}
    assert len(needs) > 50
    assert [name for name, wanted in needs.items() if wanted and f"{oldest}.0" not in SpecifierSet(str(wanted))] == []


def test_one_version_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert project["version"] == citation["version"] == __version__
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_every_folder_of_the_package_is_explained_to_contributors() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text()
    folders = [path.parent for path in (ROOT / "dof_lightning").glob("*/__init__.py")]
    assert [path.name for path in folders if f"`dof_lightning/{path.name}/`" not in table] == []
