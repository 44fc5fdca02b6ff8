"""Every shipped experiment, and every algorithm, runs from the first step to the table."""

import json

import pytest
from omegaconf import OmegaConf

from dof_lightning import configuration, engine
from tests.end_to_end.workplace import SMALL, Workplace

TINY = (*SMALL[1:], "trainer.max_steps=2", "data.episodes=50", "rollout.report_episodes=2", "rollout.episodes=2")
LONG = 200  # steps of an episode that are too many for a test of everything
CASES = [(experiment, "dof_policy") for experiment in configuration.options("experiment")]
CASES += [("mpe_spread_random", name) for name in configuration.options("algorithm") if name != "dof_policy"]


def those_that_exist(typed: list[str], choices: list[str]) -> list[str]:
    """Without the keys that other algorithms have."""
    cfg = configuration.compose(choices)
    return [item for item in typed if OmegaConf.select(cfg, item.partition("=")[0], default=cfg) is not cfg]


def shortened(choices: list[str]) -> list[str]:
    """Episodes of a thousand steps are cut, in the data and where policies are rolled out."""
    horizon = OmegaConf.select(configuration.compose(choices), "env.horizon")
    return [f"{env}.horizon=20" for env in ("env", "data.source.environment")] if (horizon or 0) > LONG else []


@pytest.mark.parametrize(("experiment", "algorithm"), CASES)
def test_it_runs_to_its_end(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, experiment: str, algorithm: str
) -> None:
    monkeypatch.chdir(workplace.path)
    run_dir = f"tiny_{experiment}_{algorithm}"
    choices = [f"experiment={experiment}", f"algorithm={algorithm}", f"run_dir={run_dir}"]
    narrow = [*TINY, *(["algorithm.candidates=1"] if algorithm != "dof_policy" else [])]
    engine.run(configuration.compose([*choices, *those_that_exist(narrow, choices), *shortened(choices)]))
    results = json.loads((workplace.path / run_dir / "results.json").read_text())
    assert (results["experiment"], results["algorithm"], results["steps"]) == (experiment, algorithm, 2)
    acts_alone = results["last"].get("execution") != "centralized"
    assert acts_alone == (configuration.compose(choices).execution == "decentralized")
    assert results["last"]["certificate"]["passed"] == acts_alone
