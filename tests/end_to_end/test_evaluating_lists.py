"""`dof eval` with a list: the numbers of each value's own evaluation, and three files in the run's folder."""

import json
from pathlib import Path

import pytest

from dof_lightning.cli import main as cli
from dof_lightning.errors import UserError
from tests.fixtures.workplace import Workplace


@pytest.fixture(autouse=True)
def _in_the_workplace(workplace: Workplace, finished: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace.path)
    monkeypatch.setattr("dof_lightning.evaluation.score._ASKED_FOR", 1)


def test_a_list_gives_each_values_own_numbers(finished: str, capsys: pytest.CaptureFixture) -> None:
    checkpoint = f"checkpoint={finished}/checkpoints/last.ckpt"
    cli.run(["eval", checkpoint, "sampler=[ddim,dpm_solver]", "sampler.steps=[1,3]"])
    captured = capsys.readouterr()
    results = json.loads(captured.out)["results"]
    assert len(results) == 4
    for result in results:
        cli.run(["eval", checkpoint, *(f"{key}={value}" for key, value in result.pop("settings").items())])
        assert result.pop("decision_ms") > 0
        assert json.loads(capsys.readouterr().out) == result
    for kind in ("md", "csv", "png"):
        file = Path(finished) / "sweeps" / f"last_sampler_sampler.steps.{kind}"
        assert file.stat().st_size > 0
        assert str(file) in captured.err


@pytest.mark.parametrize("listed", ["seed=[0,1]", "algorithm.candidates=[1,10]"])
def test_keys_that_the_page_names_can_be_listed(listed: str, finished: str, capsys: pytest.CaptureFixture) -> None:
    cli.run(["eval", f"checkpoint={finished}/checkpoints/last.ckpt", listed])
    first, second = json.loads(capsys.readouterr().out)["results"]
    assert first["return_mean"] != second["return_mean"]


@pytest.mark.parametrize(
    ("tails", "words"),
    [(("sampler.steps=[2,999]",), "sampler.steps=999 must be between 1 and"), (("output=there",), "output= is for")],
    ids=["a value too large", "output without a list"],
)
def test_what_cannot_be_swept_is_refused_before_anything_is_played(
    finished: str, tails: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dof_lightning.evaluation.grid.score", None)
    with pytest.raises(UserError, match=words):
        cli.run(["eval", f"checkpoint={finished}/checkpoints/last.ckpt", *tails])
