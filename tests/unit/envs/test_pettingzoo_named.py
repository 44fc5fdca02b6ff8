"""The naming of a PettingZoo environment, in a yaml or on the command line; every mistake in it is one line."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from dof_lightning import make_env
from dof_lightning.cli.data_arguments import split_env
from dof_lightning.config import checks
from dof_lightning.config import compose as configuration
from dof_lightning.envs.pettingzoo.env import PettingZooEnv
from dof_lightning.envs.pettingzoo.spaces import ObservationVectors, make_action_map
from dof_lightning.errors import UserError
from dof_lightning.rollout.run import run_rollout
from tests.unit.envs.test_pettingzoo import Waiting, outpost, spread


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"factory": "mpe3.simple_spread.parallel_env"}, "needs the package 'mpe3': pip install mpe3, or.*PYTHONPATH"),
        ({"factory": "mpe2.simple_spread_v9.parallel_env"}, "there is no module 'mpe2.simple_spread_v9'"),
        ({"factory": "mpe2.simple_spread_v3.paralel_env"}, "has no 'paralel_env'"),
        ({"factory": "parallel_env"}, "not a dotted name"),
        ({"factory": "mpe2.simple_spread_v3.env"}, "not a ParallelEnv"),
        ({"arguments": {"M": 3}}, r"refuses them \(TypeError.*'M'"),
        ({"horizon": 0}, "horizon=0"),
        ({"factory": None}, "env.factory= is missing; .*env.factory=my_package.my_env:parallel_env"),
        ({"arguments": {"local_ratio": float("inf")}}, "env.arguments.local_ratio=inf must be a finite number"),
        ({"arguments": {"N": [1, {"x": float("nan")}]}}, r"env.arguments.N\[1\].x=nan must be a finite number"),
        (
            {"factory": "tests.fixtures.pettingzoo_outpost.parallel_env", "arguments": {"high": -1.0}},
            "'scout' acts in Box.*a dimension of equal bounds",
        ),
        (
            {"factory": "tests.fixtures.pettingzoo_outpost.parallel_env", "arguments": {}, "global_state": True},
            r"has no state\(\)",
        ),
    ],
)
def test_mistakes_are_one_line(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        spread(**changes)


@pytest.mark.parametrize("box", [Box(-1, 1, (0,)), Box(np.float32([0, -1]), np.float32([0, 1]))])
def test_a_box_with_nothing_to_choose_or_see_is_refused(box: Box) -> None:
    with pytest.raises(UserError, match=r"'idle' acts in Box.*a dimension of equal bounds"):
        make_action_map({"busy": Box(-1, 1, (2,)), "idle": box})
    if not box.shape[0]:
        with pytest.raises(UserError, match=r"'idle' observes Box.*which has no numbers"):
            ObservationVectors({"busy": Box(-1, 1, (2,)), "idle": box})


def test_a_box_without_bounds_is_refused() -> None:
    with pytest.raises(UserError, match=r"'scout' acts in Box.*range is infinite"):
        make_action_map({"scout": Box(-1.0, np.inf, (2,))})


def test_a_factory_gets_its_arguments_from_python_and_from_dof_data() -> None:
    factory = "tests.fixtures.pettingzoo_outpost:parallel_env"
    plain = make_env("pettingzoo", factory=factory)
    changed = make_env("pettingzoo", factory=factory, arguments={"start": 5}).spec
    typed, others = split_env(
        ["env=pettingzoo", f"env.factory={factory}", "+env.arguments.start=5", "trust=true", "a=b"]
    )
    assert others == ["a=b"]
    assert configuration.build(typed.env).spec.fingerprint == changed.fingerprint != plain.spec.fingerprint


def test_an_environment_is_named_on_the_command_line_alone() -> None:
    """No yaml: env=pettingzoo, and what makes it as module:name or module.name; both are one world."""
    factory = "tests.fixtures.pettingzoo_outpost:parallel_env"
    typed = ["experiment=mpe_spread_random", "env=pettingzoo", f"env.factory={factory}", "+env.arguments.start=5"]
    with pytest.raises(UserError, match=r"env\.factory=.*trust=true"):
        checks.check(configuration.compose(typed))
    cfg = configuration.compose([*typed, "trust=true", "env.horizon=10"])
    checks.check(cfg)
    env: PettingZooEnv = configuration.build(cfg.env)
    assert env.spec.name == "pettingzoo_outpost"
    assert env.spec.fingerprint == outpost(start=5).spec.fingerprint
    assert run_rollout(Waiting(), env, torch.tensor([0, 1, 2]), (0,)).lengths.tolist() == [4, 4, 4]
    checks.check(configuration.compose([*typed[:2], "env.factory=mpe2.simple_spread_v3:parallel_env"]))


def test_an_argument_that_is_not_in_the_yaml_is_told_how_to_be_added() -> None:
    with pytest.raises(UserError, match=r"`env.arguments.size`; .* type `\+env.arguments.size=<value>`"):
        configuration.compose(["experiment=mpe_spread_random", "env=pettingzoo", "env.arguments.size=5"])


def test_a_missing_package_of_ours_says_which_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'mpe2'", name="mpe2")

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(UserError, match=r"needs the package 'mpe2': pip install -e '.\[mpe2\]'$"):
        spread()
