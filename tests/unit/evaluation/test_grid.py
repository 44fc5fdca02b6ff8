"""Several values of a key: every combination is evaluated, and the files record what was measured."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.subjects import made_up_spec
from dof_lightning.checkpoints.checkpoint import Checkpoint
from dof_lightning.checkpoints.overrides import override
from dof_lightning.config import compose as configuration
from dof_lightning.console import make_console
from dof_lightning.envs.particle.env import ParticleEnv
from dof_lightning.errors import UserError
from dof_lightning.evaluation.grid import Result, expand, listed
from dof_lightning.evaluation.grid_report import files, show, write
from dof_lightning.evaluation.score import Score


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    return configuration.to_plain(configuration.compose(["experiment=mpe_spread_random"]))


def results(stored: dict[str, Any], *tails: str) -> list[Result]:
    """Made-up scores that grow with the index."""
    certificate = {"passed": True, "max_abs_delta": 0.0}
    return [
        Result(variant, Score(4, 10.0 * index, 2.0, 5.0 * index, certificate), decision_ms=0.125 * (index + 1))
        for index, variant in enumerate(expand(stored, tails))
    ]


def checkpoint(path: Path, stored: dict[str, Any]) -> Checkpoint:
    return Checkpoint(path, 7, stored, made_up_spec(3), {"return_mean": 30.0}, {})


def test_every_combination_is_the_configuration_of_its_own_evaluation(stored: dict[str, Any]) -> None:
    tails = ["sampler=[ddim,dpm_solver]", "algorithm.candidates=2", "sampler.steps=[1,3,null]"]
    variants = expand(stored, tails)
    wanted = [(sampler, steps) for sampler in ("ddim", "dpm_solver") for steps in (1, 3, None)]
    assert [tuple(variant.settings.values()) for variant in variants] == wanted
    for variant, (sampler, steps) in zip(variants, wanted, strict=True):
        typed = [f"sampler={sampler}", f"sampler.steps={'null' if steps is None else steps}", "algorithm.candidates=2"]
        assert variant.config == override(stored, typed)
        assert variant.sampler_steps == (steps or stored["schedule"]["steps"])


def test_values_are_typed_back_as_they_were_read(stored: dict[str, Any]) -> None:
    temperatures = [
        variant.config["sampler"]["temperature"] for variant in expand(stored, ["sampler.temperature=[1e-3,0.5]"])
    ]
    assert temperatures == [1e-3, 0.5]
    assert [variant.config["trust"] for variant in expand(stored, ["trust=[true,false]"])] == [True, False]


def test_a_list_where_a_list_belongs_is_one_value(stored: dict[str, Any]) -> None:
    assert listed(stored, ["algorithm.critic.hidden=[8,8]", "sampler.steps=[1]", "seed=3"]) == ["sampler.steps"]
    assert len(expand(stored, ["seed=3"])) == 1


@pytest.mark.parametrize(
    ("tail", "words"),
    [
        ("sampler.steps=[]", r"sampler.steps=\[\] must be a list of values"),
        ("sampler.steps=[1,2", r"cannot read sampler.steps=\[1,2; write"),
        ("sampler.steps=[1,2,1]", "names 1 twice"),
        ("sampler.steps=[null,null]", "names null twice"),
        ("sampler.steps=[[1],2]", "must be a list of values"),
        ("sampler.steps=[1,a]", "sampler.steps must be an integer, got 'a'"),
        ("sampler.stepz=[1,2]", "did you mean `sampler.steps`"),
        ("sampler=[ddim,nonsense]", "sampler=nonsense does not exist"),
        ("trainer.max_steps=[1,2]", "does not read `trainer.max_steps`"),
    ],
)
def test_bad_lists_are_refused_in_one_line(stored: dict[str, Any], tail: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as refused:
        expand(stored, [tail])
    assert "\n" not in str(refused.value)


def test_a_sweep_lies_in_the_run_folder(tmp_path: Path) -> None:
    inside = files(tmp_path / "run" / "checkpoints" / "best.ckpt", ["sampler", "sampler.steps"])
    assert inside.table == tmp_path / "run" / "sweeps" / "best_sampler_sampler.steps.md"
    assert files(tmp_path / "copied.ckpt", ["seed"]).figure == tmp_path / "sweeps" / "copied_seed.png"
    assert (
        files(tmp_path / "copied.ckpt", ["seed"], tmp_path / "there").values == tmp_path / "there" / "copied_seed.csv"
    )
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match="output="):
        files(tmp_path / "copied.ckpt", ["seed"], tmp_path / "taken")


@pytest.mark.parametrize(
    "tails",
    [
        ("sampler=[ddim,dpm_solver]", "sampler.steps=[1,3,null]"),
        ("sampler.steps=[2]",),
        ("sampler=[ddim,ddpm]",),
        ("sampler.temperature=[0,0.5,1]",),
        ("trust=[true,false]",),
        ("algorithm.target_sampler.steps=[null,1]",),
    ],
    ids=" ".join,
)
def test_table_values_and_figure_agree_with_the_results(
    tmp_path: Path, stored: dict[str, Any], tails: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    measured, path = results(stored, *tails), tmp_path / "last.ckpt"
    where = files(path, listed(stored, tails))
    write(where, checkpoint(path, stored), tails, measured, ParticleEnv("spread"))
    with where.values.open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["return_mean"]) for row in rows] == [result.score.return_mean for result in measured]
    assert [float(row["decision_ms"]) for row in rows] == [result.decision_ms for result in measured]
    table = where.table.read_text()
    assert len([line for line in table.splitlines() if line.startswith("|")]) == 2 + len(measured)
    assert all(word in table for word in (*tails, "| 1.0 |", "measured on this machine", where.figure.name))
    with Image.open(where.figure) as figure:
        assert len(figure.convert("RGB").getcolors(maxcolors=1 << 24)) > 10
    show(make_console(), measured)
    shown = capsys.readouterr().out
    assert all(key in shown for key in listed(stored, tails))
    assert shown.count("certified") == len(measured)
    json.dumps([result.to_dict() for result in measured])


def test_a_centralised_variant_is_labelled(tmp_path: Path, stored: dict[str, Any]) -> None:
    (one,) = results(stored, "sampler.steps=[2]")
    score = Score(4, 1.0, 0.0, None, {"passed": False, "max_abs_delta": 0.5}, execution="centralized")
    where = files(tmp_path / "last.ckpt", ["sampler.steps"])
    write(
        where, checkpoint(tmp_path / "last.ckpt", stored), [], [Result(one.variant, score, 1.0)], ParticleEnv("spread")
    )
    assert "NO, centralised" in where.table.read_text()
    assert where.values.read_text().splitlines()[1].endswith("False,centralized")
