"""An evaluation is built from the stored configuration as changed by the tails of `dof eval`."""

from typing import Any

import pytest

from dof_lightning.checkpoints.overrides import override
from dof_lightning.config import compose as configuration
from dof_lightning.config.identity import config_hash
from dof_lightning.errors import UserError


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    return configuration.to_plain(configuration.compose(["experiment=mpe_spread_random", "trust=true"]))


def test_a_part_of_the_model_changes_where_the_algorithm_is_built_from(stored: dict[str, Any]) -> None:
    changed = override(stored, ["sampler.steps=3"])
    assert changed["algorithm"]["sampler"]["steps"] == changed["sampler"]["steps"] == 3
    assert stored["algorithm"]["sampler"]["steps"] != 3


def test_groups_come_first_and_replace_everything(stored: dict[str, Any]) -> None:
    changed = override(stored, ["sampler.steps=3", "sampler=ddim", "env=mpe_tag"])
    assert changed["algorithm"]["sampler"]["_target_"].endswith("DDIM")
    assert changed["algorithm"]["sampler"]["steps"] == 3
    assert changed["env"]["task"] == "tag"


def test_how_an_agent_chooses_can_be_changed(stored: dict[str, Any]) -> None:
    tails = ["algorithm.candidates=3", "algorithm.selection=softmax", "algorithm.selection_temperature=0.5"]
    changed = override(stored, tails)["algorithm"]
    chosen = (changed["candidates"], changed["selection"], changed["selection_temperature"])
    assert chosen == (3, "softmax", 0.5)


def test_nothing_else_changes(stored: dict[str, Any]) -> None:
    assert override(stored, []) == stored | {"trust": False}


def test_earlier_versions_did_not_store_how_many_episodes_are_certified(stored: dict[str, Any]) -> None:
    told = {key: value for key, value in stored["rollout"].items() if key != "certificate_episodes"}
    earlier = stored | {"rollout": told}
    assert override(earlier, ["rollout.certificate_episodes=2"])["rollout"]["certificate_episodes"] == 2
    assert config_hash(earlier) == config_hash(stored)


def test_a_checkpoint_cannot_vouch_for_itself(stored: dict[str, Any]) -> None:
    foreign = stored | {"env": {"_target_": "os.system", "command": "true"}}
    with pytest.raises(UserError, match="trust=true"):
        override(foreign, [])
    assert override(foreign, ["trust=true"])["trust"] is True


def test_what_has_no_effect_is_refused(stored: dict[str, Any]) -> None:
    cloned = configuration.to_plain(configuration.compose(["experiment=mpe_spread_random", "algorithm=bc"]))
    for tail in ("sampler.steps=3", "noise_factorization=concat"):
        with pytest.raises(UserError, match=f"{tail} has no effect: algorithm=bc does not read it"):
            override(cloned, [tail])
    typed = ["experiment=mpe_spread_random", "algorithm=dof_trajectory", "algorithm.returns=advantage"]
    by_advantage = configuration.to_plain(configuration.compose(typed))
    with pytest.raises(UserError, match=r"return_update=time has no effect: algorithm\.returns=advantage"):
        override(by_advantage, ["algorithm.return_update=time"])
    with pytest.raises(UserError, match=r"dof igd does not read `rollout.report_episodes`"):
        override(stored, ["rollout.report_episodes=3"], command="dof igd")


@pytest.mark.parametrize(
    ("tail", "words"),
    [
        ("algorithm=dof_cloning", "the algorithm of a checkpoint cannot change"),
        ("sampler=nonsense", "sampler=nonsense does not exist; choose one of ddim, ddpm, dpm_solver"),
        ("data=mpe_spread_expert", "does not read `data`"),
        ("trainer.max_steps=3", "does not read `trainer.max_steps`"),
        ("sampler.stepz=3", "did you mean `sampler.steps`"),
        ("algorithm.critic=3", "unknown key `algorithm.critic`|does not read"),
        ("rollout.report_episodes=abc", "rollout.report_episodes must be an integer, got 'abc'"),
        ("rollout.report_episodes=0", "must be at least 1"),
        ("rollout.certificate_episodes=0", "must be at least 1"),
        ("rollout.report_episodes=null", "must be at least 1"),
        ("seed=1.5", "seed must be an integer"),
        ("algorithm.q_gradient=one-step", "none or one_step"),
        ("algorithm.selection=best", "algorithm.selection must be argmax or softmax"),
        ("algorithm.candidates=2.5", "algorithm.candidates must be an integer"),
    ],
)
def test_what_an_evaluation_cannot_use_is_refused(stored: dict[str, Any], tail: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        override(stored, [tail])
