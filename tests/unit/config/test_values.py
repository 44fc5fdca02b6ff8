"""The origin of values that nobody typed: tuned ones are for their own datasets, and are named."""

from pathlib import Path

import pytest

from dof_lightning.config import catalog, checks
from dof_lightning.config import compose as configuration
from dof_lightning.config.origins import origin_of_values
from dof_lightning.errors import UserError
from tests.fixtures.dataset_files import build, make_episodes

MEDIUM = ("experiment=mpe_spread_medium", "algorithm=dof_policy")


def told(*typed: str) -> list[str]:
    return origin_of_values(configuration.to_plain(configuration.compose(typed)))


def test_every_tuned_value_is_named_once_with_its_section() -> None:
    lines = told(*MEDIUM, "algorithm.discount=0.5")
    assert all(line.startswith("conf/hyperparams/particle.yaml:") for line in lines)
    weight = next(line for line in lines if "algorithm.q_weight" in line)
    number = int(weight.partition(":")[2].partition(" ")[0])
    written = (catalog.CONF_DIR / "hyperparams" / "particle.yaml").read_text(encoding="utf-8").splitlines()
    assert written[number - 1].startswith("- algorithms: [dof_policy]")
    assert "algorithm.q_weight=100.0" in weight
    assert "mpe_*_medium" in weight
    assert "data.global_batch_size=256" in lines[0]
    assert not any("algorithm.discount" in line for line in lines), "what is typed is no tuned value"
    assert sum(line.count("algorithm.q_weight=") for line in lines) == 1, "the section that is overruled is not named"


def test_an_algorithm_without_values_beside_tuned_ones_is_told_so() -> None:
    (line,) = told("experiment=mpe2_spread_random", "algorithm=bc")
    assert line.startswith("presets of conf/algorithm; conf/hyperparams has none for bc")
    assert "dof_policy" in line
    (line,) = told("experiment=mpe_spread_medium", "~tuned")
    assert "tuned=dof_policy_mpe_spread_medium uses them" in line


def test_own_data_typed_with_anothers_experiment_get_presets(tmp_path: Path) -> None:
    build(tmp_path / "mine", make_episodes(20), name="mine")
    build(tmp_path / "moved", make_episodes(20), name="mpe_spread_medium")
    mine, moved = (configuration.compose([*MEDIUM, f"data.path={tmp_path}/{name}"]) for name in ("mine", "moved"))
    presets = configuration.compose([*MEDIUM, "~tuned"])
    assert mine.algorithm == presets.algorithm
    assert mine.algorithm.q_weight != moved.algorithm.q_weight == 100
    (line,) = origin_of_values(configuration.to_plain(mine))
    assert "values tuned on mpe_spread_medium are not used" in line
    asked = configuration.compose([*MEDIUM, f"data.path={tmp_path}/mine", "tuned=dof_policy_mpe_spread_medium"])
    assert asked.algorithm.q_weight == 100
    for cfg in (mine, moved, asked):
        checks.check(cfg)


def test_a_folder_below_the_usual_root_is_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOF_DATA", str(tmp_path))
    build(tmp_path / "mine_alone", make_episodes(20), name="mine")
    cfg = configuration.compose(["experiment=none", "data=mine_alone", "algorithm=bc", "rollout=none"])
    checks.check(cfg)
    assert cfg.data.path == str(tmp_path / "mine_alone")
    assert configuration.task_name(configuration.to_plain(cfg)) == "mine_alone"
    with pytest.raises(UserError, match="data=nowhere does not exist"):
        configuration.compose(["experiment=none", "data=nowhere", "algorithm=bc"])


def test_own_data_need_no_experiment_to_borrow(tmp_path: Path) -> None:
    typed = ["experiment=none", "algorithm=td3_bc"]
    with pytest.raises(UserError, match=r"data.path= is missing: experiment=none is for your own data"):
        checks.check(configuration.compose(typed))
    cfg = configuration.compose([*typed, "data.path=data/mine/", "rollout=none", "debug=default"])
    checks.check(cfg)
    plain = configuration.to_plain(cfg)
    assert configuration.task_name(plain) == "mine"
    assert plain["algorithm"]["discount"] == 0.95, "of conf/algorithm"
    assert configuration.task_name(configuration.to_plain(configuration.compose(MEDIUM))) == "mpe_spread_medium"
    played = configuration.compose([*typed, "data.path=data/mine", "env=mpe_spread"])
    checks.check(played)
    assert played.env.task == "spread"
