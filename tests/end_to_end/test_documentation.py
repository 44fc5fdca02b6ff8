"""The how-to pages, followed word for word in a copy of the project."""

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import yaml

from data_modules.storage.manifest import read_manifest
from dof_lightning.cli import main as cli
from dof_lightning.deployment import load_agent
from tests.fixtures.shard_reading import assert_same, read_all, sorted_by_id
from tests.fixtures.workplace import ROOT, SMALL, Workplace, environment, run_here, succeeded

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
    """The fenced blocks in one section of a page."""
    section = (ROOT / "docs" / page).read_text().partition(f"## {heading}")[2].partition("\n## ")[0]
    found = re.findall(r"^( *)```\w*\n(.*?)^ *```$", section, flags=re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(text) for _, text in found]


def write_files(project: Path, texts: list[str]) -> list[Path]:
    """Writes the blocks that begin with the path of a file."""
    files = []
    for text in texts:
        if named := re.match(r"# ([\w/]+\.(?:py|yaml))\n", text):
            files.append(project / named[1])
            files[-1].write_text(text.partition("\n")[2])
    return files


def commands(texts: list[str]) -> list[list[str]]:
    """The commands that a reader is to type."""
    lines = [line for text in texts if not text.startswith("# ") for line in text.splitlines()]
    return [shlex.split(line, comments=True) for line in lines]


def follow(project: Path, typed: list[str], *short: str) -> str:
    """Runs a command of a page in the copy; trainings are cut short."""
    dof = [sys.executable, "-c", "from dof_lightning.cli.main import main; main()"]
    program = {"python": [sys.executable], "dof": dof}[typed[0]]
    command = [*program, *typed[1:], *(short if typed[1] == "train.py" else ())]
    here = environment() | {"PYTHONPATH": str(project), "DOF_DATA": str(project / "data")}
    return succeeded(subprocess.run(command, cwd=project, env=here, capture_output=True, text=True, timeout=300))


def in_a_shell(folder: Path, line: str) -> str:
    """The output of a line with a pipe."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    command = ["bash", "-c", f"set -o pipefail; {line}"]
    here = environment() | {"PATH": path}
    return succeeded(subprocess.run(command, cwd=folder, env=here, capture_output=True, text=True, timeout=120))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("heading", "says"),
    [("A noise factorisation, from nothing to a training run", "mean_one"), ("An algorithm", "noisy_bc")],
)
def test_a_part_of_ones_own_from_nothing_to_a_training_run(project: Path, heading: str, says: str) -> None:
    texts = blocks("guide/extending.md", heading)
    code, option = write_files(project, texts)
    assert (code.suffix, option.suffix) == (".py", ".yaml")
    tests, training = commands(texts)
    assert re.search(r"\b\d\d+ passed", follow(project, tests))
    short = [item for item in SHORT if says == "mean_one" or not item.startswith(DIFFUSES)]
    follow(project, training, *short, "data.episodes=50", "run_dir=mine")
    assert says in (project / "mine" / "config.yaml").read_text()
    subprocess.run([Path(sys.executable).with_name("ruff"), "check", str(code)], cwd=project, check=True)


@pytest.mark.slow
def test_a_search_finds_the_best_of_its_trials(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="[dev] has it")
    (text,) = blocks("guide/devices.md", "A search instead of a grid")
    (typed,) = commands([text.replace("\\\n", "")])
    short = [item for item in SHORT if not item.startswith(DIFFUSES)]
    assert typed[:2] == ["python", "train.py"]
    printed = succeeded(Workplace(tmp_path).train(*typed[2:], *short, "data.episodes=50", "hydra.sweeper.n_trials=2"))
    scores = [
        json.loads((tmp_path / "runs" / "search" / trial / "results.json").read_text())["last"]["normalized_score"]
        for trial in ("0", "1")
    ]
    found = yaml.safe_load((tmp_path / "runs" / ".hydra" / "optimization_results.yaml").read_text())
    assert found["best_value"] == max(scores)
    rates = [float(line.split()[1]) for line in printed.splitlines()[-4:-2]]  # the table of the sweep
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)
    assert found["best_params"]["algorithm.learning_rate"] == rates[scores.index(max(scores))]


def test_from_own_episodes_and_an_own_world_to_exported_agents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Typed in this process, as the page needs no change of the project."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for heading in ("The world", "The episodes", "Training", "Agents"):
        texts = blocks("guide/own_data.md", heading)
        write_files(tmp_path, texts)
        for program, *typed in commands(texts):
            if "|" in typed:
                served = in_a_shell(tmp_path, texts[0].splitlines()[-1])
            elif typed[0] == "train":
                played = [] if "rollout=none" in typed else [*SMALL[2:], "rollout.report_episodes=2"]
                run_here(*typed[1:], "trainer.max_steps=2", "data.global_batch_size=16", *played)
            elif program == "dof":
                cli.run(typed)
            else:
                runpy.run_path(typed[0], run_name="__main__")
    alone, played, written = (read_manifest(tmp_path / "data" / name) for name in ("alone", "played", "written"))
    assert [agent.name for agent in alone.spec.environment.agents] == ["scout", "tug", "crane", "drone"]
    assert written.spec.environment == played.spec.environment
    assert written.behavior["return_mean"] == pytest.approx(played.behavior["return_mean"])
    assert_same(*(sorted_by_id(read_all(tmp_path / "data" / name)) for name in ("written", "played")))
    results = [json.loads((tmp_path / "runs" / name / "results.json").read_text()) for name in ("alone", "played")]
    assert results[0]["last"]["status"] == "not evaluated"
    assert results[1]["last"]["certificate"]["passed"]
    assert results[1]["behavior"]["episodes"] == played.n_episodes == 60
    agent = load_agent(tmp_path / "agents" / "crane.json")
    agent.reset(0)
    assert np.abs(agent.act(np.full(5, 10.0))).max() > 1  # its own units
    reset, answered = map(json.loads, served.splitlines())
    assert reset == {"reset": 7}
    np.testing.assert_allclose(answered["action"], 2 * np.array(answered["decision"]), rtol=1e-6)
    assert (tmp_path / "report" / "report.md").is_file()
