"""Every shipped experiment, and every algorithm, runs from the first step to the table."""

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from data_modules.imported import ImportedDataset
from dof_lightning import configuration, engine
from tests.end_to_end.workplace import SMALL, Workplace
from tests.imported_dataset import write_imported

TINY = (*SMALL[1:], "trainer.max_steps=2", "data.episodes=50", "rollout.report_episodes=2", "rollout.episodes=2")


def is_imported(experiment: str) -> bool:
    """Whether the data are somebody else's, which a test has to stand in for."""
    source = configuration.compose([f"experiment={experiment}"]).data.source
    return bool(source._target_ == f"{ImportedDataset.__module__}.{ImportedDataset.__name__}")


def width(experiment: str) -> int:
    """Of what the experiment's agents observe."""
    dim: int = configuration.build(configuration.compose([f"experiment={experiment}"])["env"]).spec.observation_dim
    return dim


def case(experiment: str) -> Any:
    """Imported data sets go one way whatever their dimensions: the smallest stands for the others."""
    slow = pytest.mark.slow if experiment in IMPORTED[1:] else ()
    return pytest.param(experiment, "dof_policy", marks=slow)


IMPORTED = sorted(filter(is_imported, configuration.options("experiment")), key=width)
CASES = [case(experiment) for experiment in configuration.options("experiment")]
CASES += [("mpe_spread_random", name) for name in configuration.options("algorithm") if name != "dof_policy"]
CASES += [(experiment, "dof_trajectory") for experiment in IMPORTED[:1]]


def those_that_exist(typed: list[str], choices: list[str]) -> list[str]:
    """Without the keys that other algorithms have."""
    cfg = configuration.compose(choices)
    return [item for item in typed if OmegaConf.select(cfg, item.partition("=")[0], default=cfg) is not cfg]


def import_stand_in(experiment: str) -> None:
    source: ImportedDataset = configuration.build(configuration.compose([f"experiment={experiment}"]).data.source)
    if not source.exists():
        write_imported(Path(source.path), source.name, source.environment.spec, n_episodes=100)


@pytest.mark.parametrize(("experiment", "algorithm"), CASES)
def test_it_runs_to_its_end(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, experiment: str, algorithm: str
) -> None:
    monkeypatch.chdir(workplace.path)
    run_dir = f"tiny_{experiment}_{algorithm}"
    choices = [f"experiment={experiment}", f"algorithm={algorithm}", f"run_dir={run_dir}"]
    if experiment in IMPORTED:
        import_stand_in(experiment)
    narrow = [*TINY, *(["algorithm.candidates=1"] if algorithm != "dof_policy" else [])]
    engine.run(configuration.compose([*choices, *those_that_exist(narrow, choices)]))
    results = json.loads((workplace.path / run_dir / "results.json").read_text())
    assert (results["experiment"], results["algorithm"], results["steps"]) == (experiment, algorithm, 2)
    if not configuration.compose(choices).rollout.enabled:
        assert results["last"]["status"] == results["best"]["status"] == "not evaluated"
        assert results["last"]["return_mean"] is None
        assert results["heldout"]["heldout/diffusion"] > 0
        return
    acts_alone = results["last"].get("execution") != "centralized"
    assert acts_alone == (configuration.compose(choices).execution == "decentralized")
    assert results["last"]["certificate"]["passed"] == acts_alone
