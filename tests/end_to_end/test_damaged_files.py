"""Every file that a run, a dataset, an export or a benchmark leaves, damaged in hundreds of ways and read again.

A file that is read gives the same answer, or is refused in one line with exit code 2: no traceback, no hang, no other
number.
"""

import json
import shutil
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dof_lightning.cli import main as cli
from dof_lightning.config import messages
from dof_lightning.deployment import load_agent
from dof_lightning.digest import KEY
from tests.end_to_end.conftest import UNINTERRUPTED
from tests.fixtures.damage import damaged_bytes, damaged_json, damaged_values
from tests.fixtures.workplace import ROOT, SMALL, Workplace, run_here

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SECONDS = 60  # a damaged file may take


@dataclass
class Reader:
    """Reads a file again and again.

    Attributes:
        read: a command; what it answers is its return value and what it prints.
        capsys: the test's fixture.
        may_answer_otherwise: whether another number in the file is another answer, as nothing else says what it was.
    """

    read: Callable[[], Any]
    capsys: pytest.CaptureFixture[str]
    may_answer_otherwise: bool = False

    def faults(self, path: Path, damages: Iterable[tuple[str, str | bytes]]) -> list[str]:
        """One line for each damage of the file that is neither refused in one line nor without effect."""
        whole = path.read_bytes()
        expected = self._outcome()
        assert expected.startswith("0 "), expected
        found = []
        for what, content in damages:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
            outcome = self._outcome()
            is_refused = outcome.startswith("2 error: ") and outcome.count("\n") == 1
            is_answered = outcome.startswith("0 ") if self.may_answer_otherwise else outcome == expected
            if not (is_refused or is_answered):
                found.append(f"{path.name}, {what}: {outcome[-400:]}")
        path.write_bytes(whole)
        return found

    def _outcome(self) -> str:
        answer: list[Any] = []
        self.capsys.readouterr()
        try:
            with at_most(SECONDS):
                code = messages.exit_with_one_line(lambda: answer.append(self.read()))
        except Exception:
            return f"1 {traceback.format_exc()}"
        printed = self.capsys.readouterr()
        return f"{code} {printed.err if code else [*answer, printed.out]}"


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError(f"no answer within {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def place(workplace: Workplace, finished: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a finished run, `run`, with its dataset, where commands run."""
    shutil.copytree(workplace.path / finished, tmp_path / "run")
    (dataset,) = workplace.path.glob("data/mpe_spread_random-200-*")
    shutil.copytree(dataset, tmp_path / "data" / dataset.name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_checkpoints(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = place / "run" / "checkpoints" / "last.ckpt"
    reader = Reader(lambda: cli.run(["eval", f"checkpoint={path}", "rollout.report_episodes=2"]), capsys)
    assert reader.faults(path, damaged_bytes(path.read_bytes(), flips=60)) == []


def test_checkpoints_of_earlier_versions_have_no_digest_but_are_read_or_refused(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = place / "run" / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content.pop(KEY)
    plain = {key: value for key, value in content.items() if key not in ("state_dict", "optimizer_states", "loops")}

    def damages() -> Iterator[tuple[str, bytes]]:
        for what, changed in damaged_values(plain, per_key=1):
            torch.save({**content, **changed}, place / "changed.ckpt")
            yield what, (place / "changed.ckpt").read_bytes()

    reader = Reader(lambda: cli.run(["eval", f"checkpoint={path}", "rollout.report_episodes=2"]), capsys, True)
    assert reader.faults(path, damages()) == []


@pytest.mark.parametrize("kind", ["json", "safetensors"])
def test_exported_agents(place: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    cli.run(["export", "checkpoint=run/checkpoints/last.ckpt", "output=agents"])
    path = place / "agents" / f"agent_1.{kind}"

    def act() -> list[float]:
        agent = load_agent(place / "agents" / "agent_1.json")
        agent.reset(0)
        return agent.act(torch.linspace(-1, 1, 18)).tolist()

    whole = path.read_bytes()
    damages = [*damaged_bytes(whole), *(damaged_json(whole.decode()) if kind == "json" else ())]
    assert Reader(act, capsys).faults(path, damages) == []


def test_manifests_of_datasets(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = place.glob("data/*/dataset.json")

    def train() -> float:
        shutil.rmtree(place / "again", ignore_errors=True)
        run_here(*SMALL, f"data.path={path.parent}", "trainer.max_steps=2", "rollout=none", "run_dir=again")
        capsys.readouterr()
        heldout: float = json.loads((place / "again" / "results.json").read_text())["heldout"]["heldout/diffusion"]
        return heldout

    assert Reader(train, capsys).faults(path, damaged_json(path.read_text(), per_key=1)) == []


def test_shards(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = next(place.glob("data/*/*.tar"))
    reader = Reader(lambda: cli.run(["data", "verify", str(path.parent)]), capsys)
    assert reader.faults(path, damaged_bytes(path.read_bytes())) == []


def test_results_and_configurations_of_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Results are sealed; a configuration is not, so that another value that could be right is believed."""

    def report() -> str:
        shutil.rmtree(place / "report", ignore_errors=True)
        cli.run(["report", "run", "output=report", "formats=csv"])
        return "".join(path.read_text() for path in sorted((place / "report").rglob("*.csv")))

    def go_on() -> None:
        run_here(*UNINTERRUPTED, "run_dir=run")

    results, config = place / "run" / "results.json", place / "run" / "config.yaml"
    faults = []
    for read in (report, go_on):
        damages = [*damaged_json(results.read_text(), per_key=1), *damaged_bytes(results.read_bytes(), flips=5)]
        faults += Reader(read, capsys).faults(results, damages)
        values = damaged_values(yaml.safe_load(config.read_text()), per_key=1)
        written = [(what, yaml.safe_dump(changed)) for what, changed in values]
        faults += Reader(read, capsys, True).faults(config, [*written, *damaged_bytes(config.read_bytes(), flips=10)])
    assert faults == []


@pytest.mark.parametrize("name", ["results.csv", "curves.csv"])
def test_results_stores(place: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """Stores written before rows had a digest are read by their numbers."""
    store = place / "store"
    shutil.copytree(ROOT / "benchmarks" / "results" / "chase", store)

    def report() -> str:
        shutil.rmtree(place / "report", ignore_errors=True)
        cli.run(["report", str(store), "output=report", "formats=csv"])
        return "".join(path.read_text() for path in sorted((place / "report").rglob("*.csv")))

    path = store / name
    assert Reader(report, capsys, True).faults(path, damaged_bytes(path.read_bytes(), flips=8)) == []
