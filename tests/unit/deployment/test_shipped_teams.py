"""Pretrained teams come with the package, under the names and with the returns that docs/guide/deploy.md reports."""

import io
import re
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest
from torch import Tensor

from dof_lightning import load_agent, make_env
from dof_lightning.config import compose
from dof_lightning.deployment.record import SHIPPED, find_record, shipped_teams, team_records
from dof_lightning.errors import UserError
from tests.fixtures.agent_files import write_agents
from tests.fixtures.policy_models import small_dof_policy
from tests.fixtures.workplace import ROOT

SECTION = (ROOT / "docs/guide/deploy.md").read_text().partition("## Pretrained agents")[2].partition("\n## ")[0]
REPORTED_EPISODES = 200


class Row(NamedTuple):
    """Of the page's table."""

    name: str
    world: str
    data: float
    mean: float
    std: float
    command: str


ROWS = [
    Row(name, world, float(data), float(mean), float(std), command)
    for name, world, data, mean, std, command in re.findall(
        r"^\| `(\w+)` \| `(\w+)` \| ([\d.]+) \| ([\d.]+) ± ([\d.]+) \| `python train.py ([^`]+)` \|$",
        SECTION,
        re.MULTILINE,
    )
]
each_team = pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])


@pytest.fixture(scope="module")
def page() -> tuple[Callable[[str, str, int], Tensor], float]:
    """The page's `play`, and the mean return that its program prints."""
    (program,) = re.findall(r"^```python\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
    names: dict = {}
    with redirect_stdout(io.StringIO()) as printed:
        exec(program, names)
    return names["play"], float(re.findall(r"[\d.]+", printed.getvalue())[0])


def test_the_page_names_what_is_shipped() -> None:
    assert [row.name for row in ROWS] == shipped_teams()


def test_the_pages_program_prints_what_it_says(page: tuple) -> None:
    (said,) = re.findall(r"# ([\d.]+) with these seeds", SECTION)
    # Another machine rounds otherwise, which can tip the choice between two candidates in an episode or two.
    assert page[1] == pytest.approx(float(said), rel=0.02)


@pytest.mark.parametrize("episodes", [20, pytest.param(200, marks=pytest.mark.slow)])
@each_team
def test_a_team_scores_what_is_reported(row: Row, episodes: int, page: tuple) -> None:
    returns = page[0](row.name, row.world, episodes)
    error = row.std * (1 / episodes + 1 / REPORTED_EPISODES) ** 0.5
    assert returns.mean().item() == pytest.approx(row.mean, abs=3 * error)
    assert returns.mean() > row.data - 2 * error


@each_team
def test_files_are_small_and_of_the_run_that_the_page_names(row: Row) -> None:
    spec = make_env(row.world).spec
    trained = compose.to_plain(compose.compose(row.command.split()))
    agents = [load_agent(row.name, agent=index) for index in team_records(SHIPPED / row.name)]
    assert [agent.name for agent in agents] == [agent.name for agent in spec.agents]
    for agent in agents:
        assert agent.record["environment"]["fingerprint"] == spec.fingerprint
        assert agent.record["dataset"]["name"] == trained["choices"]["data"]
        assert agent.record["checkpoint"]["step"] == trained["trainer"]["max_steps"]
        assert re.fullmatch(r"[0-9a-f]{40}", agent.record["git"])  # a committed state
    assert max(file.stat().st_size for file in (SHIPPED / row.name).iterdir()) <= 1_000_000


def test_a_team_is_a_name_or_a_folder_and_an_index(tmp_path: Path) -> None:
    paths = write_agents(tmp_path, small_dof_policy().policy())
    assert [load_agent(tmp_path, agent=index).name for index in range(3)] == ["agent_0", "agent_1", "agent_2"]
    assert load_agent(tmp_path).index == load_agent("mpe_spread_expert").index == 0
    assert find_record(paths[2]) == paths[2]
    paths[0].unlink()  # one machine may have the files of some agents only
    assert load_agent(tmp_path, agent=2).index == 2
    assert load_agent(tmp_path, agent="agent_1").index == 1


def test_what_exists_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mpe_spread_expert"
    shutil.copytree(SHIPPED / "mpe_world_medium", folder)
    assert load_agent("mpe_spread_expert").record["dataset"]["name"] == "mpe_world_medium"
    for file in folder.iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"mpe_spread_expert contains no agents; .*it hides the shipped team"):
        load_agent("mpe_spread_expert")


@pytest.mark.parametrize(
    ("path", "agent", "complaint"),
    [
        ("mpe_spred_expert", None, f"mpe_spred_expert does not exist; .*shipped are {', '.join(shipped_teams())}$"),
        ("..", None, r"\.\. contains no agents; `dof export"),
        ("mpe_spread_expert", 3, r"has no agent=3; choose one of 0 .agent_0., 1 .agent_1., 2 .agent_2.$"),
        ("mpe_spread_expert", -1, "has no agent=-1"),
        ("mpe_spread_expert", "pilot", "has no agent=.pilot.; choose one of 0 .agent_0.,"),
        (SHIPPED / "mpe_spread_expert" / "agent_1.json", 1, r"agent_1\.json is one agent already; leave out agent=1"),
    ],
)
def test_what_is_not_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str | Path, agent: int | str | None, complaint: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match=complaint) as caught:
        load_agent(path, agent=agent)
    assert "\n" not in str(caught.value)
