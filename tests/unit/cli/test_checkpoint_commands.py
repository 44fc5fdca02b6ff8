"""Immediate answers of `dof eval`, `export`, `certify` and `igd`, and the modules that they import for them."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dof_lightning.checkpoints.checkpoint import read
from dof_lightning.checkpoints.location import find_checkpoint
from dof_lightning.checkpoints.warm_start import beginning
from dof_lightning.cli.main import run
from dof_lightning.errors import UserError

NOT_THERE = r"checkpoint={} does not exist; a run keeps them in <run_dir>/checkpoints/last\.ckpt"


def imported(code: str, *arguments: str) -> set[str]:
    """The packages that a program has imported when it ends, in a process of its own."""
    told = f"import sys\n{code}\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", told, *arguments], capture_output=True, text=True, check=True, timeout=120
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("command", ["eval", "export", "certify", "igd"])
def test_a_checkpoint_that_is_not_there_is_one_line(command: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=NOT_THERE.format("missing.ckpt")):
        run([command, "checkpoint=missing.ckpt"])
    with pytest.raises(UserError, match=NOT_THERE.format(f"{tmp_path}/checkpoints/last.ckpt")):
        run([command, f"checkpoint={tmp_path}"])


def test_both_checkpoints_of_a_comparison_are_looked_for(tmp_path: Path) -> None:
    (tmp_path / "one.ckpt").touch()
    with pytest.raises(UserError, match=NOT_THERE.format("other.ckpt").replace("checkpoint=", "compare=")):
        run(["igd", f"checkpoint={tmp_path / 'one.ckpt'}", "compare=other.ckpt"])


@pytest.mark.parametrize("levels", [1, 3])
def test_a_folder_of_runs_names_its_newest_run(tmp_path: Path, levels: int) -> None:
    for age, name in enumerate(("new run", "old")):
        last = tmp_path.joinpath(*"ab"[: levels - 1], name, "checkpoints", "last.ckpt")
        last.parent.mkdir(parents=True)
        last.touch()
        os.utime(last, (1e9 - age, 1e9 - age))
    with pytest.raises(UserError) as error:
        run(["eval", f"checkpoint={tmp_path}"])
    proposed = str(error.value).rpartition(" is ")[2]
    (pasted,) = shlex.split(proposed)
    assert find_checkpoint(Path(pasted.removeprefix("checkpoint="))).parts[-3] == "new run"


def test_a_checkpoint_is_asked_for_by_the_key_that_was_typed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="init_from=nowhere does not exist"):
        beginning("nowhere", resumed_from=None)


def test_a_run_folder_stands_for_its_newest_checkpoint(tmp_path: Path) -> None:
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.parent.mkdir()
    last.touch()
    assert find_checkpoint(tmp_path) == find_checkpoint(last) == last
    with pytest.raises(UserError, match="cannot be read, it is damaged"):
        read(tmp_path)


def test_a_mistake_is_answered_before_torch_is_imported() -> None:
    code = """
from dof_lightning.cli.main import run
from dof_lightning.errors import UserError
for command in ("eval", "export", "certify", "igd"):
    try:
        run([command, "checkpoint=missing.ckpt"])
    except UserError:
        pass
"""
    assert not imported(code) & {"torch", "lightning", "jax", "hydra", "numpy"}


def test_what_the_commands_are_made_of_imports_neither_lightning_nor_jax() -> None:
    code = """
import dof_lightning.checkpoints.certify, dof_lightning.checkpoints.export, dof_lightning.console
import dof_lightning.evaluation.grid_report, dof_lightning.evaluation.igd
"""
    assert not imported(code) & {"lightning", "torchmetrics", "jax"}
