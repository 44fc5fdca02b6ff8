"""The folder and the checkpoint that a run starts with; damaged files in them become one line."""

import copy
import dataclasses
import json
import lzma
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from dof_lightning.checkpoints import checkpoint as checkpoints
from dof_lightning.config.compose import build
from dof_lightning.config.identity import config_hash
from dof_lightning.config.stored import check_stored
from dof_lightning.errors import UserError
from dof_lightning.training import start as starts
from dof_lightning.training.run_folder import CHECKPOINT_VARIABLE, RUN_DIR_VARIABLE, RunFolder
from dof_lightning.training.start import set_aside_best
from tests.fixtures.workplace import ROOT

WRITTEN = ROOT / "tests/fixtures/written_by_0_1_0/runs"
BOMB = "a: &a [1,1,1,1,1,1,1,1]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 8)}]\n"
    for before, name in zip("abcdefghij", "bcdefghijk", strict=True)
)
DAMAGED_CONFIGS = {
    "bomb": BOMB.encode(),
    "nested": b"a: " + b"[" * 500,
    "not text": b"\xff\xfe\x00seed: 1",
    "empty": b"",
    "a list": b"[1, 2]",
    "unfinished": b"seed: 1\nalgorithm: {",
    "tab": b"seed:\t\t1\n\t- a",
    "unhashable": b"{[1]: 2}",
    "a date": b"seed: 2020-01-01",
    "numbered": b"1: 2",
    "an object": b"!!python/object/apply:os.mkdir [x]",
    "huge": b"# " + b"x" * 210_000,
}


@pytest.fixture(autouse=True)
def _nobody_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in (RUN_DIR_VARIABLE, CHECKPOINT_VARIABLE):
        monkeypatch.setenv(variable, "")


@pytest.fixture
def plain() -> dict[str, Any]:
    """The configuration of the run that was killed half way, without a folder."""
    config = RunFolder(WRITTEN / "dof_policy_half").read_config()
    assert config is not None
    return config | {"run_dir": None}


def place(name: str, at: Path, age: int = 0) -> RunFolder:
    """A run folder of 0.1.0 below the working folder."""
    shutil.copytree(WRITTEN / name, at)
    packed = at / "checkpoints" / "last.ckpt.xz"
    packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
    os.utime(packed.with_suffix(""), (2e9 - age, 2e9 - age))
    return RunFolder(at)


@pytest.mark.parametrize("damage", [*DAMAGED_CONFIGS, "a folder", "checkpoint", "no checkpoint, a folder"])
def test_a_damaged_folder_is_passed_over_with_one_line(
    plain: dict[str, Any], capsys: pytest.CaptureFixture, damage: str
) -> None:
    """It is the newest; an older one is whole."""
    runs = Path("runs/mpe_spread_random/dof_policy")
    good, bad = place("dof_policy_half", runs / "good", age=9), place("dof_policy_half", runs / "bad")
    if damage in DAMAGED_CONFIGS:
        bad.config.write_bytes(DAMAGED_CONFIGS[damage])
    elif damage == "a folder":
        bad.config.unlink()
        bad.config.mkdir()
    else:
        bad.last.unlink()
        bad.last.mkdir() if "folder" in damage else bad.last.write_bytes(good.last.read_bytes()[:-5000])
        os.utime(bad.last, (2e9, 2e9))
    start = starts.find_start(plain)
    assert start.folder.path == good.path
    assert start.checkpoint == good.last
    [line] = capsys.readouterr().err.splitlines()
    assert str(bad.path) in line
    assert ("config.yaml is damaged" in line) == (damage in (*DAMAGED_CONFIGS, "a folder"))


@pytest.mark.parametrize("damage", DAMAGED_CONFIGS)
def test_a_named_folder_s_damaged_configuration_is_one_line(plain: dict[str, Any], damage: str) -> None:
    folder = place("dof_policy", Path("mine"))
    folder.config.write_bytes(DAMAGED_CONFIGS[damage])
    with pytest.raises(UserError, match=r"mine/config\.yaml is damaged: ") as refused:
        starts.find_start(plain | {"run_dir": "mine"})
    assert "\n" not in str(refused.value)


def outcome(config: dict[str, Any]) -> str:
    """The complaint about a stored configuration; empty if it is whole."""
    try:
        config_hash(check_stored(config))
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "hidden", ["${oc.env:HOME}", ["a", {"b": "x ${oc.create:{_target_: os.system}}"}], {"${a}": 1}]
)
def test_a_reference_in_a_stored_configuration_is_refused(plain: dict[str, Any], hidden: Any) -> None:
    """Hydra would resolve it after the names of classes have been checked."""
    changed = copy.deepcopy(plain)
    changed["algorithm"]["denoiser"] = hidden
    assert "it contains the reference '" in outcome(changed)
    with pytest.raises(UserError, match="algorithm contains the reference"):
        build(changed["algorithm"], "algorithm")


@pytest.mark.parametrize("value", ["missing", None, "x", [], {}, -1.5, True])
def test_every_key_of_a_configuration_is_read_or_named(plain: dict[str, Any], value: Any) -> None:
    said = {}
    for path in [(key,) for key in plain] + [
        (key, name) for key in plain if key != "seed" for name in _names(plain[key])
    ]:
        changed = copy.deepcopy(plain)
        node = changed[path[0]] if len(path) == 2 else changed
        node[path[-1]] = value
        if value == "missing":
            del node[path[-1]]
        said[path] = outcome(changed)
    named = [path for path, words in said.items() if words]
    assert all(path[-1] in said[path] for path in named)
    assert len(named) >= 10 - (value == "x") * 4, "text may name another option"


def _names(node: Any) -> list[str]:
    return list(node) if isinstance(node, dict) else []


RESULTS = json.loads((WRITTEN / "dof_policy" / "results.json").read_text())
DAMAGED_RESULTS = {
    "empty": "",
    "cut": json.dumps(RESULTS)[:100],
    "list": "[]",
    "nested": "[" * 100_000,
    "not text": b"\xff\xfe",
    "no steps": {**RESULTS, "steps": None},
    "fractional steps": {**RESULTS, "steps": 1.5},
    "words": {**RESULTS, "steps": "many"},
    "truth": {**RESULTS, "steps": True},
    "nan": {**RESULTS, "last": {**RESULTS["last"], "return_mean": float("nan")}},
    "no score": {**RESULTS, "last": None},
    "list of scores": {**RESULTS, "best": [RESULTS["best"]]},
    "text for a score": {**RESULTS, "best": {**RESULTS["best"], "return_mean": "182"}},
}


@pytest.mark.parametrize("damage", DAMAGED_RESULTS)
def test_damaged_results_are_one_line_for_a_longer_run(plain: dict[str, Any], damage: str) -> None:
    folder, content = place("dof_policy", Path("mine")), DAMAGED_RESULTS[damage]
    written = json.dumps(content) if isinstance(content, dict) else content
    folder.results.write_bytes(written.encode() if isinstance(written, str) else written)
    longer = plain | {"run_dir": "mine", "trainer": plain["trainer"] | {"max_steps": 40}}
    with pytest.raises(UserError, match=r"mine/results\.json is damaged: .*; delete it") as refused:
        starts.find_start(longer)
    assert "\n" not in str(refused.value)
    assert folder.results.exists(), "nothing is lost"


def test_results_whose_run_is_not_known_are_no_finished_run(plain: dict[str, Any]) -> None:
    """Without its configuration they would pass for those of any run of as many steps, of another seed say."""
    place("dof_policy", Path("mine")).config.unlink()
    with pytest.raises(UserError, match=r"mine contains results of a run without its config\.yaml"):
        starts.find_start(plain | {"run_dir": "mine", "seed": 1})


def test_results_without_a_checkpoint_are_not_overwritten(plain: dict[str, Any]) -> None:
    folder = place("dof_policy", Path("mine"))
    folder.last.unlink()
    longer = plain | {"run_dir": "mine", "trainer": plain["trainer"] | {"max_steps": 40_000}}
    with pytest.raises(UserError, match=r"mine contains the results of \d+ steps, but no last\.ckpt"):
        starts.find_start(longer)


def otherwise(plain: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(plain) | {"run_dir": "mine"}
    *above, last = key.split(".")
    node = changed
    for name in above:
        node = node[name]
    node[last] = value
    return changed


def test_a_run_may_train_past_its_plateau_in_its_folder(plain: dict[str, Any]) -> None:
    folder = place("dof_policy", Path("mine"))
    steps = json.loads(folder.results.read_text())["steps"]
    later = otherwise(plain, "rollout.until_plateau", 7)
    assert starts.find_start(otherwise(later, "trainer.max_steps", steps)).finished
    assert not starts.find_start(otherwise(later, "trainer.max_steps", steps + 1)).finished


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rollout.episodes", 20),
        ("callbacks.rollout.episodes", 20),
        ("callbacks.rollout.chunk", 7),
        ("callbacks.checkpoint.monitor", "rollout/win_rate"),
        ("env.scenario", "another"),
        ("rollout.every_n_steps", 7),
        ("callbacks.rollout.every_n_steps", 7),
        ("callbacks.rollout.until_plateau", 7),
        ("rollout.report_episodes", 7),
        ("callbacks.rollout", None),
        ("env.of_a_later_version", 1),
        ("trainer.max_steps", 100),
    ],
)
def test_a_best_score_of_other_episodes_is_not_held_against_new_ones(
    plain: dict[str, Any], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, key: str, value: Any
) -> None:
    folder = place("dof_policy_half", Path("mine"))
    shutil.copy(folder.last, folder.best)
    read = checkpoints.read(folder.best)
    before = otherwise(otherwise(read.config, "env.scenario", "one"), "callbacks.rollout.chunk", 50)
    before = otherwise(before, "callbacks.rollout.until_plateau", 5)
    monkeypatch.setattr(checkpoints, "read", lambda path: dataclasses.replace(read, config=before))
    set_aside_best(folder.best, before)
    assert folder.best.exists(), "nothing has changed"
    set_aside_best(folder.best, otherwise(before, key, value))
    compares = key.endswith(("every_n_steps", "until_plateau")) or key in (
        *("callbacks.rollout", "rollout.report_episodes", "env.of_a_later_version", "trainer.max_steps"),
    )
    assert folder.best.exists() == compares
    said = capsys.readouterr().err
    if not compares:
        assert (folder.checkpoints / "best_at_step_10.ckpt").exists(), "nothing is lost"
        assert f"{key}=" in said
        assert f"{value} now: the best is selected anew" in said
    assert len(said.splitlines()) == (not compares)


def test_a_best_that_is_resumed_is_not_renamed_under_the_run(plain: dict[str, Any]) -> None:
    folder = place("dof_policy_half", Path("mine"))
    shutil.copy(folder.last, folder.best)
    changed = otherwise(checkpoints.read(folder.best).config, "rollout.episodes", 20)
    with pytest.raises(UserError, match=r"rollout\.episodes=.* copy it to best_at_step_10\.ckpt beside it"):
        set_aside_best(folder.best, changed, resumed=folder.best)
    assert folder.best.exists()
    set_aside_best(folder.best, changed, resumed=folder.last)
    assert not folder.best.exists()


def test_somebody_elses_configuration_is_not_overwritten(plain: dict[str, Any]) -> None:
    Path("project").mkdir()
    Path("project/config.yaml").write_text("my: precious\n")
    with pytest.raises(UserError, match=r"run_dir=project contains a config\.yaml that is no run's"):
        starts.find_start(plain | {"run_dir": "project"})
    assert Path("project/config.yaml").read_text() == "my: precious\n"


def test_a_damaged_best_is_one_line_before_training(plain: dict[str, Any]) -> None:
    folder = place("dof_policy_half", Path("mine"))
    folder.best.write_bytes(folder.last.read_bytes()[:-9000])
    with pytest.raises(UserError, match=r"mine/checkpoints/best\.ckpt is damaged; delete it"):
        set_aside_best(folder.best, plain)
