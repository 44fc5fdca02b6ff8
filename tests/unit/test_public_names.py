"""The public names of `import dof_lightning`: lazy, complete, and with the command line's checks."""

import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import dof_lightning
from dof_lightning.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def run_python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_nothing_else() -> None:
    heavy = ["torch", "lightning", "hydra", "numpy", "data_modules", "dof_lightning.api"]
    found = f"[name for name in {heavy} if name in sys.modules]"
    assert run_python(f"import dof_lightning, sys; dir(dof_lightning); print({found})") == "[]\n"


def test_threads_sleep_while_they_wait_in_whoever_imports_it() -> None:
    said = "print(os.environ['OMP_WAIT_POLICY'])"
    unset = "import os; os.environ.pop('OMP_WAIT_POLICY', None); import dof_lightning; "
    assert run_python(unset + said) == "passive\n"
    chosen = "import os; os.environ['OMP_WAIT_POLICY'] = 'active'; import dof_lightning; "
    assert run_python(chosen + said) == "active\n"


def test_a_star_import_gives_the_public_names_and_nothing_else() -> None:
    names: dict[str, Any] = {}
    exec("from dof_lightning import *", names)
    del names["__builtins__"]
    assert sorted(names) == sorted(dof_lightning.__all__) == list(dof_lightning.__all__)


@pytest.mark.parametrize("name", dof_lightning.__all__)
def test_every_public_name_leads_to_the_object_of_that_name(name: str) -> None:
    found = getattr(dof_lightning, name)
    assert found.__name__ == name
    assert found is getattr(import_module(found.__module__), name)
    assert found.__doc__
    assert name in dir(dof_lightning)


def test_other_names_are_missing_as_in_any_module() -> None:
    with pytest.raises(AttributeError, match="module 'dof_lightning' has no attribute 'DofPolicy'"):
        _ = dof_lightning.DofPolicy


def test_type_checkers_are_told_that_the_packages_are_typed() -> None:
    assert [
        name for name in ("dof_lightning", "data_modules", "callbacks") if not (ROOT / name / "py.typed").exists()
    ] == []


@pytest.mark.parametrize(("option", "answer"), [("--help", "usage: dof"), ("--version", dof_lightning.__version__)])
def test_dof_answers_without_torch(option: str, answer: str) -> None:
    program = f"""
import sys
from dof_lightning.cli.main import run
try:
    run([{option!r}])
except SystemExit as end:
    assert end.code == 0
assert "torch" not in sys.modules
"""
    assert answer in run_python(program)


def test_environments_are_made_by_name_with_changes() -> None:
    env = dof_lightning.make_env("mpe_tag", prey="still")
    assert env.spec.recipe["opponent"] == {"kind": "still"}
    assert env.reset(torch.arange(2)).shape[:2] == (2, env.spec.n_agents)


def test_datasets_are_made_once(tmp_path: Path) -> None:
    path = dof_lightning.make_dataset("mpe_spread_random", episodes=50, root=tmp_path)
    assert Path(path).parent == tmp_path
    written = (Path(path) / "dataset.json").stat().st_mtime_ns
    assert dof_lightning.make_dataset("mpe_spread_random", episodes=50, root=tmp_path) == path
    assert (Path(path) / "dataset.json").stat().st_mtime_ns == written


MISTAKES = [
    (
        lambda: dof_lightning.make_env("mpe_spred"),
        r"env=mpe_spred does not exist; did you mean mpe_spread\b",
    ),
    (lambda: dof_lightning.make_env("mpe_tag", pray="still"), r"unknown key `env\.pray`"),
    (lambda: dof_lightning.make_dataset("mpe_spread_random", episodes="many"), "episodes must be an integer"),
    (lambda: dof_lightning.make_dataset("mpe_spread_random", episodes=0), "must be at least 1"),
    (lambda: dof_lightning.train(), "experiment= is missing"),
    (lambda: dof_lightning.train("-m", "experiment=mpe_spread_random"), "cannot read '-m'; write key=value"),
    (
        lambda: dof_lightning.train("experiment=mpe_tag_expert", "trainer.max_stps=3"),
        "did you mean `trainer.max_steps`",
    ),
    (lambda: dof_lightning.evaluate("none.ckpt"), r"checkpoint=none\.ckpt does not exist"),
    (lambda: dof_lightning.load_agent("agent.json"), r"agent\.json does not exist"),
]


@pytest.mark.parametrize(("call", "complaint"), MISTAKES)
def test_mistakes_are_one_line_and_do_not_end_the_process(call: Callable[[], Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        call()
    assert "\n" not in str(caught.value)
