"""Files of version 0.1.0 (revision ab949f7) load, answer, score and resume as they did then, bit for bit.

`tests/fixtures/written_by_0_1_0` holds run folders, a run that was killed half way, exported agents, and in
`expected.json` what that version made of them; `command.txt` is what had been typed for `dof_policy` and its half.
"""

import hashlib
import json
import lzma
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dof_lightning.cli import main as cli
from dof_lightning.deployment import load_agent
from tests.fixtures.workplace import ROOT, Workplace, run_here

WRITTEN = ROOT / "tests" / "fixtures" / "written_by_0_1_0"
EXPECTED = json.loads((WRITTEN / "expected.json").read_text())
PRESETS_THEN = (  # better ones have been found since
    "algorithm.q_weight=10.0",
    "algorithm.q_warmup_steps=0",
    "algorithm.critic.activation=silu",
)
COMMAND = (*(WRITTEN / "command.txt").read_text().split(), *PRESETS_THEN)


def canary() -> str:
    """Differs where this kind of machine or this torch rounds otherwise."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(32, 3, 24, generator=generator)
    weight = torch.randn(3, 24, 8, generator=generator, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=1e-3, fused=True)
    for _ in range(3):
        hidden = torch.nn.functional.mish(torch.bmm(x.transpose(0, 1), weight))
        convolved = torch.nn.functional.conv1d(hidden, torch.full((4, 32, 3), 0.1), padding=1)
        loss = (convolved.tanh().exp().square().mean() + hidden.sigmoid().log().mean()) / 3
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return hashlib.sha256(weight.detach().numpy().tobytes()).hexdigest()


SAME_BITS = canary() == EXPECTED["bits_hold_where"]["canary"]  # else numbers are compared up to rounding


def tensors(node: Any, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a checkpoint by its path."""
    if isinstance(node, torch.Tensor):
        yield prefix, node
    elif isinstance(node, dict | list | tuple):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from tensors(value, f"{prefix}/{key}")


def weights(path: Path) -> dict[str, torch.Tensor]:
    """All weights of a checkpoint, averages included."""
    found: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    return found


def digest(path: Path) -> str:
    """One sha256 of all tensors of a checkpoint: names, kinds, shapes and bits."""
    hashed = hashlib.sha256()
    for name, tensor in sorted(tensors(torch.load(path, map_location="cpu", weights_only=True))):
        hashed.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        hashed.update(tensor.contiguous().numpy().tobytes())
    return hashed.hexdigest()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workplace]:
    """A working folder for commands in this process, with the one thread that wrote the files."""
    shutil.copytree(WRITTEN, tmp_path / "place")
    for packed in (tmp_path / "place").rglob("*.xz"):
        packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
    monkeypatch.chdir(tmp_path / "place")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Workplace(tmp_path / "place")
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", EXPECTED["runs"])
@pytest.mark.usefixtures("place")
def test_a_checkpoint_scores_as_it_did(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    cli.run(["eval", f"checkpoint=runs/{name}/checkpoints/last.ckpt", "rollout.report_episodes=8"])
    score, expected = json.loads(capsys.readouterr().out.splitlines()[-1]), EXPECTED["runs"][name]["score"]
    if not SAME_BITS:
        assert score.keys() == expected.keys()
        score = {
            key: pytest.approx(value, rel=1e-2) if isinstance(value, float) else value for key, value in score.items()
        }
    assert score == expected


@pytest.mark.parametrize("name", [name for name, run in EXPECTED["runs"].items() if "agent" in run])
def test_an_exported_agent_answers_as_it_did(name: str) -> None:
    stored = np.load(WRITTEN / "decisions.npz")
    agent = load_agent(WRITTEN / "agents" / name / EXPECTED["runs"][name]["agent"])
    observations = stored[f"{name}.observations"]
    for seed in EXPECTED["decisions"]["seeds"]:
        agent.reset(seed)
        acted, expected = np.array([agent.act(step) for step in observations]), stored[f"{name}.actions_seed_{seed}"]
        np.testing.assert_allclose(acted, expected, rtol=0, atol=0 if SAME_BITS else 1e-5)


@pytest.mark.parametrize("names_its_folder", [True, False])
def test_a_killed_run_is_found_and_goes_on_to_the_same_weights(place: Workplace, names_its_folder: bool) -> None:
    """It is found by its folder or, as its configuration is the same run to this version, by its overrides alone."""
    folder = Path("runs") / ("dof_policy_half" if names_its_folder else "mpe_spread_random/dof_policy/half")
    if not names_its_folder:
        (place.path / folder).parent.mkdir(parents=True)
        shutil.move(place.path / "runs" / "dof_policy_half", place.path / folder)
    run_here(*COMMAND, *([f"run_dir={folder}"] if names_its_folder else []))
    results = place.results(str(folder))
    assert results["resumed_from_step"] == 10
    resumed, uninterrupted = (path / "checkpoints" / "last.ckpt" for path in (folder, Path("runs/dof_policy")))
    theirs = weights(uninterrupted)
    for weight_name, weight in weights(resumed).items():
        torch.testing.assert_close(weight, theirs[weight_name], rtol=1e-3, atol=1e-4)
    if SAME_BITS:
        assert digest(resumed) == EXPECTED["runs"]["dof_policy"]["tensors_sha256"]
        assert results["last"] == json.loads((WRITTEN / "runs" / "dof_policy" / "results.json").read_text())["last"]


@pytest.mark.usefixtures("place")
def test_a_finished_run_is_finished(capsys: pytest.CaptureFixture[str]) -> None:
    run_here(*COMMAND, "run_dir=runs/dof_policy")
    assert "is finished" in "".join(capsys.readouterr())
