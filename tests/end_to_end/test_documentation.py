"""The how-to pages, followed word for word in a copy of the project."""

import json
import re
import runpy
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from dof_lightning.cli import main as cli
from dof_lightning.deployment import load_agent
from tests.fixtures.workplace import ROOT, SMALL, environment, run_here, succeeded

SHORT = [
    *SMALL[2:],
    "trainer.max_steps=2",
    "rollout.every_n_steps=2",
    "rollout.episodes=2",
    "rollout.report_episodes=2",
]
DIFFUSES = ("denoiser.", "schedule.", "sampler.", "algorithm.")  # keys that cloning does not have


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy that may be written to."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True)
    for name in listed.stdout.decode().splitlines():
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    return tmp_path


def blocks(page: str, heading: str) -> list[str]:
    """What stands between fences in one section of a page."""
    section = (ROOT / "docs" / page).read_text().partition(f"## {heading}")[2].partition("\n## ")[0]
    found = re.findall(r"^( *)```\w*\n(.*?)^ *```$", section, flags=re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(text) for _, text in found]


def write_files(project: Path, texts: list[str]) -> list[Path]:
    """Those that begin with their path."""
    files = []
    for text in texts:
        if named := re.match(r"# ([\w/]+\.(?:py|yaml))\n", text):
            files.append(project / named[1])
            files[-1].write_text(text.partition("\n")[2])
    return files


def commands(texts: list[str]) -> list[list[str]]:
    """What is to be typed."""
    lines = [line for text in texts if not text.startswith("# ") for line in text.splitlines()]
    return [shlex.split(line, comments=True) for line in lines]


def follow(project: Path, typed: list[str], *short: str) -> str:
    """Runs a command of a page in the copy; trainings are cut short."""
    dof = [sys.executable, "-c", "from dof_lightning.cli.main import main; main()"]
    program = {"python": [sys.executable], "dof": dof}[typed[0]]
    command = [*program, *typed[1:], *(short if typed[1] == "train.py" else ())]
    here = environment() | {"PYTHONPATH": str(project), "DOF_DATA": str(project / "data")}
    return succeeded(subprocess.run(command, cwd=project, env=here, capture_output=True, text=True, timeout=300))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("heading", "says"),
    [("A noise factorisation, from nothing to a training run", "mean_one"), ("An algorithm", "noisy_bc")],
)
def test_a_part_of_ones_own_from_nothing_to_a_training_run(project: Path, heading: str, says: str) -> None:
    texts = blocks("extending.md", heading)
    code, option = write_files(project, texts)
    assert (code.suffix, option.suffix) == (".py", ".yaml")
    tests, training = commands(texts)
    assert re.search(r"\b\d\d+ passed", follow(project, tests))
    short = [item for item in SHORT if says == "mean_one" or not item.startswith(DIFFUSES)]
    follow(project, training, *short, "data.episodes=50", "run_dir=mine")
    assert says in (project / "mine" / "config.yaml").read_text()
    subprocess.run([Path(sys.executable).with_name("ruff"), "check", str(code)], cwd=project, check=True)


def test_a_dataset_of_ones_own(project: Path) -> None:
    generator, n = np.random.default_rng(0), 60
    np.savez(
        project / "episodes.npz",
        observations=generator.standard_normal((n, 3, 26, 18)),
        actions=generator.uniform(-1, 1, (n, 3, 25, 2)),
        rewards=generator.standard_normal((n, 3, 25)),
        terminated=np.zeros(n),
        length=np.full(n, 25),
    )
    texts = blocks("data.md", "Your own dataset")
    (script,) = write_files(project, texts)
    making, verifying, training = commands(texts)
    assert making == ["python", script.name]
    follow(project, making)
    follow(project, verifying)
    follow(project, training, *SHORT, "run_dir=mine")
    results = json.loads((project / "mine" / "results.json").read_text())
    assert results["behavior"]["episodes"] == n


def test_from_own_episodes_and_an_own_world_to_exported_agents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Typed in this process, as the page needs no change of the project."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for heading in ("The world", "The episodes", "Training"):
        texts = blocks("own_data.md", heading)
        write_files(tmp_path, texts)
        for program, *typed in commands([text for text in texts if not text.startswith("# ")]):
            if typed[0] == "train":
                played = [] if "rollout=none" in typed else [*SMALL[2:], "rollout.report_episodes=2"]
                run_here(*typed[1:], "trainer.max_steps=2", "data.global_batch_size=16", *played)
            elif program == "dof":
                cli.run(typed)
            else:
                runpy.run_path(typed[0], run_name="__main__")
    spec = json.loads((tmp_path / "data" / "alone" / "dataset.json").read_text())["environment"]
    assert [agent["name"] for agent in spec["agents"]] == ["scout", "tug", "crane", "drone"]
    alone, played = (
        json.loads((tmp_path / "runs" / name / "results.json").read_text()) for name in ("alone", "played")
    )
    assert alone["last"]["status"] == "not evaluated"
    assert played["last"]["certificate"]["passed"]
    agent = load_agent(tmp_path / "agents" / "crane.json")
    agent.reset(0)
    assert np.abs(agent.act(np.full(5, 10.0))).max() > 1  # its own units
    assert (tmp_path / "report" / "report.md").is_file()
