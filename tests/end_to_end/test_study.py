"""A study runs its cells, resumes where it was stopped, and ends in a table and a figure."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dof_lightning.config import compose as configuration
from dof_lightning.errors import UserError
from dof_lightning.studies import runner
from dof_lightning.training import run as training
from tests.fixtures.workplace import Workplace

TYPED = (
    "experiment=ablation_spread_medium",
    "algorithm=dof_cloning",
    "debug=default",
    "denoiser.hidden=[8,8]",
    "data.episodes=50",
    "trainer.max_steps=2",
)
CELLS = 6


@pytest.fixture
def run_study(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.chdir(workplace.path)

    def run(*tails: str) -> None:
        typed = [*TYPED, *tails]
        runner.run(configuration.compose(typed), typed)

    return run


class StoppedError(Exception):
    pass


def test_it_goes_on_and_reports(
    workplace: Workplace,
    run_study: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained: list[str] = []
    limit = 2
    fit = training.fit

    def watched(trainer: Any, algorithm: Any, *others: Any, **named: Any) -> None:
        if len(trained) == limit:
            raise StoppedError
        trained.append(Path(trainer.default_root_dir).name)
        fit(trainer, algorithm, *others, **named)

    monkeypatch.setattr(training, "fit", watched)
    with pytest.raises(StoppedError):
        run_study()
    (folder,) = (workplace.path / "runs" / "ablation_spread_medium" / "factorization_pairs").iterdir()
    assert not (folder / "results.json").exists()
    limit = CELLS
    run_study()  # finds the unfinished one by itself
    assert len(trained) == len(set(trained)) == CELLS
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["execution"] for row in rows] == ["decentralized"] * 3 + ["centralized"] * 3
    results = json.loads((folder / "results.json").read_text())
    assert [float(row["return"]) for row in rows] == [round(c["last"]["return_mean"], 1) for c in results["cells"]]
    assert Image.open(folder / "figure.png").width > 100
    assert any(folder.glob("events.out.tfevents.*"))
    capsys.readouterr()
    run_study(f"run_dir={folder}")
    assert "is finished" in capsys.readouterr().out
    assert len(trained) == CELLS
    with pytest.raises(UserError, match=r"contains another run: .*2 there, 3 here; choose another run_dir="):
        run_study(f"run_dir={folder}", "trainer.max_steps=3")
    (folder / "results.json").write_text(json.dumps(results | {"stopped_early": ["all"]}))
    with pytest.raises(UserError, match=r"results\.json is damaged: .*seal"):
        run_study(f"run_dir={folder}")


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        ("noise_factorization=concat", "noise_factorization= is set by the study's axes"),
        ("trainer.devices=2", "a study uses one device per run"),
        ("resume=somewhere.ckpt", "use auto or never"),
        ("study.seeds=[]", "must not be empty"),
    ],
)
def test_what_no_study_can_do_is_refused(
    workplace: Workplace, run_study: Callable[..., None], tail: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run_study(tail, "run_dir=refused")
    assert not (workplace.path / "refused").exists()


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        ("rollout.episodes=0", r"rollout\.episodes must be at least 1"),
        ("denoiser=attention_mlp", r"cell .*concat, concat.*denoiser=attention_mlp cannot run locally"),
    ],
)
def test_every_cell_is_checked_before_the_first_is_trained(
    workplace: Workplace, run_study: Callable[..., None], tail: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run_study(f"+study.axes.more.few=['{tail}']", "run_dir=refused")
    assert not (workplace.path / "refused").exists()
