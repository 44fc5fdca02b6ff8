"""Trust given once is remembered, and no folder vouches for itself."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dof_lightning.checkpoints import trust
from dof_lightning.cli.checkpoints import _with_trust

MINE = {"env": {"_target_": "dof_lightning.envs.pettingzoo.env.PettingZooEnv", "factory": "my_pkg.my_env.parallel_env"}}
OTHER = {"env": {"_target_": "os.system"}}


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def tails_of(run_dir: Path, config: dict[str, Any], *typed: str) -> list[str]:
    checkpoint = SimpleNamespace(path=run_dir / "checkpoints" / "last.ckpt", config=config | {"trust": True})
    return _with_trust(checkpoint, list(typed))


def test_what_was_trusted_for_a_run_folder_is_trusted_there_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs" / "größe"
    assert tails_of(run, MINE) == []
    trust.remember(str(run.resolve()), MINE)
    assert tails_of(run, MINE, "seed=1") == ["trust=true", "seed=1"]
    assert capsys.readouterr().err == ("trusted before: env.factory=my_pkg.my_env.parallel_env\n")
    assert tails_of(tmp_path / "runs" / "another", MINE) == []
    assert tails_of(run, OTHER) == tails_of(run, MINE | {"logger": OTHER["env"]}) == []
    assert tails_of(run, MINE, "trust=false") == ["trust=false"]


def test_typing_it_to_a_command_is_remembered_too(tmp_path: Path) -> None:
    assert tails_of(tmp_path / "run", MINE, "trust=true") == ["trust=true"]
    assert tails_of(tmp_path / "run", MINE) == ["trust=true"]


def test_trust_in_a_file_outside_of_a_run_is_for_that_file(tmp_path: Path) -> None:
    mine, other = (SimpleNamespace(path=tmp_path / name, config=MINE) for name in ("mine.ckpt", "other.ckpt"))
    for number, checkpoint in enumerate((mine, other)):
        checkpoint.path.write_bytes(bytes([number]))
    assert _with_trust(mine, ["trust=true"]) == ["trust=true"]
    assert _with_trust(mine, []) == ["trust=true"]
    assert _with_trust(other, []) == []
    assert tails_of(tmp_path, MINE) == []


def test_what_needs_no_trust_leaves_no_note(tmp_path: Path) -> None:
    ours = {"env": {"_target_": "dof_lightning.envs.particle.env.ParticleEnv"}}
    trust.remember(str((tmp_path / "run").resolve()), ours)
    assert not (tmp_path / "state").exists()
    assert tails_of(tmp_path / "run", ours) == []


@pytest.mark.parametrize("content", ["", "[]", "{", json.dumps({"a": 3}), "\xff"])
def test_a_damaged_note_trusts_nobody(tmp_path: Path, content: str) -> None:
    note = tmp_path / "state" / "dof-lightning" / "trusted.json"
    note.parent.mkdir(parents=True)
    note.write_bytes(content.encode("latin-1"))
    assert tails_of(tmp_path / "run", MINE) == []
    trust.remember(str((tmp_path / "run").resolve()), MINE)
    assert tails_of(tmp_path / "run", MINE) == ["trust=true"]
