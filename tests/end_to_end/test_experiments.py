"""Every dataset, and every algorithm, runs from the first step to the table."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from data_modules.imported import ImportedDataset
from dof_lightning.config import catalog
from dof_lightning.config import compose as configuration
from dof_lightning.config.effect import without_effect
from tests.fixtures.heavy_options import marked
from tests.fixtures.imported_dataset import write_imported
from tests.fixtures.synthetic import chooses
from tests.fixtures.workplace import SMALL, Workplace, run_here

TINY = (*SMALL[1:], "trainer.max_steps=2", "data.episodes=50", "rollout.report_episodes=2", "rollout.episodes=2")
LONG = 200  # steps of an episode that are too many for a test of everything


CASES = [(dataset, "dof_policy") for dataset in catalog.options("data")]  # studies: their cells are of these
CASES += [("smac_3m_good", "dof_trajectory"), ("game_payoff_1", "bc")]
# That all of them train is a contract (on two ranks); these stand for their kinds from the first step to the table.
KINDS = ("bc", "td3_bc", "dof_trajectory", "qmix", "madt")
OTHERS = [name for name in catalog.options("algorithm") if name not in (*KINDS, "dof_policy")]


def _task(algorithm: str) -> tuple[str, str]:
    return ("game_payoff_1" if chooses((f"algorithm={algorithm}",)) else "mpe_spread_random", algorithm)


def those_that_take_effect(typed: list[str], choices: list[str]) -> list[str]:
    """Overrides without the keys that belong to other algorithms or other runs."""
    cfg = configuration.compose(choices)
    exist = [item for item in typed if OmegaConf.select(cfg, item.partition("=")[0], default=cfg) is not cfg]
    cfg = configuration.compose([*choices, *exist])
    kind = configuration.build(cfg.env).spec.action_kind
    void = {text.partition("=")[0] for text in without_effect(cfg)}
    void |= {f"algorithm.{name}" for name in configuration.build(cfg.algorithm).idle(kind)}
    return [item for item in exist if not f"{item.partition('=')[0]}.".startswith(tuple(f"{key}." for key in void))]


def import_stand_in(experiment: str) -> None:
    """Writes a stand-in for third-party data."""
    source = configuration.build(configuration.compose([f"experiment={experiment}"]).data.source)
    if isinstance(source, ImportedDataset) and not source.exists():
        write_imported(Path(source.path), source.name, source.environment.spec, n_episodes=100)


def shortened(choices: list[str]) -> list[str]:
    """Episodes of a thousand steps are cut, in the data and where policies are rolled out."""
    horizon = OmegaConf.select(configuration.compose(choices), "env.horizon")
    return [f"{env}.horizon=20" for env in ("env", "data.source.environment")] if (horizon or 0) > LONG else []


@pytest.mark.parametrize(
    ("experiment", "algorithm"),
    [
        *marked([*CASES, *map(_task, KINDS)]),
        *(pytest.param(*_task(name), marks=pytest.mark.slow) for name in OTHERS),
    ],
)
def test_it_runs_to_its_end(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, experiment: str, algorithm: str
) -> None:
    monkeypatch.chdir(workplace.path)
    run_dir = f"tiny_{experiment}_{algorithm}"
    choices = [f"experiment={experiment}", f"algorithm={algorithm}", "study=none", f"run_dir={run_dir}"]
    import_stand_in(experiment)
    narrow = [*TINY, *(["algorithm.candidates=1"] if algorithm != "dof_policy" else [])]
    run_here(*choices, *those_that_take_effect(narrow, choices), *shortened(choices))
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
