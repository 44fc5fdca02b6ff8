"""Exported agents: from a run's checkpoint to files that hold one agent each and act alone."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dof_lightning.checkpoints import checkpoint as checkpoints
from dof_lightning.cli import main as cli
from dof_lightning.deployment import load_agent
from dof_lightning.deployment.record import write_record
from dof_lightning.deployment.structure import describe
from tests.end_to_end.test_errors import complaint_of_dof
from tests.fixtures.workplace import ROOT, Workplace

NAMES = ("agent_0", "agent_1", "agent_2")
CHECKPOINT = "{finished}/checkpoints/last.ckpt"


@pytest.fixture(autouse=True)
def _in_workplace(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """In-process commands run where the others do."""
    monkeypatch.chdir(workplace.path)


@pytest.fixture(scope="module")
def exported(workplace: Workplace, finished: str) -> Path:
    """A folder of agents with programs."""
    checkpoint, output = workplace.path / CHECKPOINT.format(finished=finished), workplace.path / "agents"
    cli.run(["export", f"checkpoint={checkpoint}", f"output={output}", "format=torch_export", "sampler.steps=3"])
    return output


def run_python(program: str, folder: Path, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_folder_holds_one_pair_of_files_and_a_program_an_agent(exported: Path, finished: str) -> None:
    kinds = (".json", ".pt2", ".safetensors")
    assert sorted(path.name for path in exported.iterdir()) == sorted(name + kind for name in NAMES for kind in kinds)
    assert [path.name for path in exported.parent.iterdir() if path.name.endswith(".exporting")] == []
    record = json.loads((exported / "agent_2.json").read_text())
    checkpoint = checkpoints.read(Path(CHECKPOINT.format(finished=finished)))
    assert record["algorithm"] == "dof_policy"
    assert record["agent"]["index"] == 2
    assert (record["agent"]["observation_dim"], record["agent"]["action_dim"]) == (18, 2)
    assert record["sampler"]["steps"] == 3
    assert record["schedule"]["steps"] == 5
    assert record["observation_normalizer"] == checkpoint.config["algorithm"]["observation_normalizer"]
    assert record["checkpoint"]["step"] == 60
    assert record["dataset"]["fingerprint"] == checkpoint.spec.fingerprint
    assert record["environment"]["fingerprint"] == checkpoint.spec.environment.fingerprint
    assert set(record["versions"]) == {"dof-lightning", "torch", "lightning", "python"}


def windows(tensor: Tensor, size: int = 4, count: int = 8) -> Iterator[bytes]:
    """A few pieces of a tensor that is long enough to be told from another."""
    flat = tensor.flatten()
    for start in torch.linspace(0, max(len(flat) - size, 0), count).long().tolist():
        piece = flat[start : start + size]
        if len(piece.unique()) == size:
            yield piece.numpy().tobytes()


def test_nothing_of_the_others_is_in_an_agents_files(exported: Path, finished: str) -> None:
    """Pieces of four numbers of every trained tensor, per agent: its own are in its files, the others' are not."""
    checkpoint = checkpoints.read(Path(CHECKPOINT.format(finished=finished)))
    policy = checkpoints.build_algorithm(checkpoint, checkpoint.config).policy()
    tensors = [describe(policy.export(agent))[1] for agent in range(3)]
    whole = sum(tensor.nbytes for tensor in describe(policy)[1].values())
    for holder, name in enumerate(NAMES):
        files = {path: path.read_bytes() for path in exported.glob(f"{name}.*")}
        assert len(files) == 3
        weights = files[exported / f"{name}.safetensors"]
        assert len(weights) < whole / 3 + 4096  # beside a third of the numbers a header of names
        for owner in range(3):
            distinct = [t for key, t in tensors[owner].items() if not torch.equal(t, tensors[owner - 1][key])]
            pieces = [piece for tensor in distinct for piece in windows(tensor)]
            assert len(pieces) > 50
            if owner == holder:
                assert all(piece in weights for piece in pieces)
            else:
                assert not any(piece in content for piece in pieces for content in files.values())


def test_agents_in_processes_of_their_own_act_as_the_batched_rollout(
    exported: Path, finished: str, capsys: pytest.CaptureFixture
) -> None:
    """The decentralisation certificate's strongest form."""
    checkpoint = CHECKPOINT.format(finished=finished)
    cli.run(["certify", f"checkpoint={checkpoint}", f"agents={exported}", "episodes=4", "seed=3"])
    printed = capsys.readouterr()
    compared = json.loads(printed.out)
    assert compared["processes"] == 3
    assert compared["decisions"] == 3 * 4 * 25
    assert compared["max_abs_difference"] <= 1e-6
    assert compared["return_mean"] == pytest.approx(compared["batched_return_mean"], abs=1e-3)
    assert "3 processes, 4 episodes" in printed.err


@pytest.mark.slow
def test_an_agent_that_acts_otherwise_is_found(
    exported: Path, finished: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    other = tmp_path / "agents"
    cli.run(["export", f"checkpoint={CHECKPOINT.format(finished=finished)}", f"output={other}", "sampler.steps=4"])
    changed = json.loads((other / "agent_1.json").read_text())
    write_record(other / "agent_1.json", changed | {"changes": ["sampler.steps=3"]})
    mixed = tmp_path / "mixed"
    shutil.copytree(exported, mixed)
    for kind in ("json", "safetensors"):
        shutil.copy(other / f"agent_1.{kind}", mixed)
    arguments = ("certify", f"checkpoint={CHECKPOINT.format(finished=finished)}", f"agents={mixed}", "episodes=2")
    assert "act differently" in complaint_of_dof(capsys, *arguments)


def test_an_agent_acts_where_there_is_neither_lightning_nor_hydra(exported: Path, tmp_path: Path) -> None:
    """The agent has only its two files, in a folder with nothing else, in a fresh process."""
    for kind in ("json", "safetensors"):
        shutil.copy(exported / f"agent_1.{kind}", tmp_path)
    program = (
        "import json, sys, numpy; from dof_lightning.deployment import load_agent; agent = load_agent('agent_1.json'); "
        "agent.reset(5); action = agent.act(numpy.linspace(-1, 1, 18)); "
        "print(json.dumps([action.tolist(), sorted({name.split('.')[0] for name in sys.modules})]))"
    )
    action, modules = json.loads(run_python(program, tmp_path, PYTHONPATH=str(ROOT)))
    agent = load_agent(exported / "agent_1.json")
    agent.reset(5)
    assert action == agent.act(torch.linspace(-1, 1, 18, dtype=torch.float64)).tolist()
    unwanted = {"lightning", "pytorch_lightning", "hydra", "omegaconf", "torchmetrics", "data_modules", "callbacks"}
    assert not unwanted & set(modules)


def test_a_program_needs_nothing_but_torch(exported: Path, tmp_path: Path) -> None:
    shutil.copy(exported / "agent_0.pt2", tmp_path)
    agent = load_agent(exported / "agent_0.json")
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(7, *shape, generator=generator) for shape in ([18], agent.record["noise_shape"])]
    torch.save(inputs, tmp_path / "inputs.pt")
    program = (
        "import sys, torch; decide = torch.export.load('agent_0.pt2').module(); "
        "torch.save(decide(*torch.load('inputs.pt')), 'action.pt'); "
        "print('dof_lightning' in sys.modules, 'safetensors' in sys.modules)"
    )
    assert run_python(program, tmp_path).split() == ["False", "False"]
    action = torch.load(tmp_path / "action.pt")
    torch.testing.assert_close(action, agent.act_on_noise(*inputs), rtol=0, atol=1e-6)


def test_an_export_is_whole_or_not_there(
    finished: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The second agent finds the disk full."""
    write, written = Path.write_bytes, []

    def write_until_full(path: Path, content: Any) -> int:
        if written:
            raise OSError(28, "No space left on device")
        written.append(path)
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", write_until_full)
    arguments = ("export", f"checkpoint={CHECKPOINT.format(finished=finished)}", f"output={tmp_path}/agents")
    assert "No space left" in complaint_of_dof(capsys, *arguments)
    assert written
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("export", "output=elsewhere"), ("checkpoint=", "missing")),
        (("export", "checkpoint=nowhere.ckpt"), ("nowhere.ckpt", "does not exist")),
        (("export", f"checkpoint={CHECKPOINT}", "format=onnx"), ("format=onnx", "safetensors, torch_export")),
        (("export", f"checkpoint={CHECKPOINT}", "output={finished}"), ("output={finished} exists",)),
        (("export", f"checkpoint={CHECKPOINT}", "env=mpe_tag"), ("dof export does not read `env`", "sampler")),
        (("export", f"checkpoint={CHECKPOINT}", "rollout.report_episodes=3"), ("dof export does not read",)),
        (("export", f"checkpoint={CHECKPOINT}", "trainer.max_steps=3"), ("dof export does not read `trainer",)),
        (("export", f"checkpoint={CHECKPOINT}", "sampler.steps=9"), ("sampler.steps=9", "schedule.steps=5")),
        (("export", f"checkpoint={CHECKPOINT}", "algorithm.denoiser.hidden=[8,8]"), ("does not fit", "denoiser")),
        (
            ("export", f"checkpoint={CHECKPOINT}", "algorithm.q_weight=7"),
            ("algorithm.q_weight=7 has no effect", "training"),
        ),
        (("certify", f"checkpoint={CHECKPOINT}"), ("agents=", "dof export")),
        (("certify", f"checkpoint={CHECKPOINT}", "agents=nowhere"), ("agents=nowhere", "dof export checkpoint=")),
        (("certify", f"checkpoint={CHECKPOINT}", "agents={finished}/checkpoints"), ("contains []", "agent_2")),
        (("certify", f"checkpoint={CHECKPOINT}", "agents=agents", "episodes=0"), ("episodes", "at least 1", "'0'")),
        (("certify", f"checkpoint={CHECKPOINT}", "agents=agents", "seed=-1"), ("seed", "at least 0", "'-1'")),
        (("certify", f"checkpoint={CHECKPOINT}", "agents=agents", "env=mpe_tag"), ("was collected in",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_mistake_is_one_line(
    finished: str,
    exported: Path,
    capsys: pytest.CaptureFixture,
    arguments: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    line = complaint_of_dof(capsys, *(argument.format(finished=finished) for argument in arguments))
    for word in words:
        assert word.format(finished=finished) in line


@pytest.mark.parametrize(
    ("change", "of"),
    [
        (["trust=true", "env=pettingzoo", "env.factory=os.system"], range(3)),
        (["env=mpe_tag"], range(3)),
        (["algorithm.denoiser._target_=os.system"], range(3)),
        (["algorithm.candidates=1"], range(1)),
    ],
)
def test_records_choose_no_world_and_no_code(
    exported: Path, finished: str, tmp_path: Path, capsys: pytest.CaptureFixture, change: list[str], of: range
) -> None:
    """Anyone can write a record; its digest vouches for nothing."""
    for path in exported.iterdir():
        shutil.copy(path, tmp_path)
    for index in of:
        path = tmp_path / f"agent_{index}.json"
        write_record(path, json.loads(path.read_text()) | {"changes": change})
    arguments = ("certify", f"checkpoint={CHECKPOINT.format(finished=finished)}", f"agents={tmp_path}")
    line = complaint_of_dof(capsys, *arguments)
    assert ("with different values" if len(of) == 1 else f"record the change '{change[0]}'") in line


def test_agents_of_another_checkpoint_are_refused(
    exported: Path, finished: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for path in exported.iterdir():
        shutil.copy(path, tmp_path)
    record = json.loads((tmp_path / "agent_1.json").read_text())
    write_record(tmp_path / "agent_1.json", record | {"checkpoint": {"step": 40, "sha256": "0"}})
    arguments = ("certify", f"checkpoint={CHECKPOINT.format(finished=finished)}", f"agents={tmp_path}")
    line = complaint_of_dof(capsys, *arguments)
    for word in ("agent_1", "step 40", "step 60"):
        assert word in line
