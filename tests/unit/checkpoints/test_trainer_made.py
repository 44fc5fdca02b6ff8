"""Checkpoints that a user's own Trainer makes hold spec and settings, so nothing else is needed to use them again."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from dof_lightning import DoFPolicy, load_algorithm, make_env
from dof_lightning.algorithms.bc import BC, BCSettings
from dof_lightning.checkpoints.checkpoint import read
from dof_lightning.checkpoints.overrides import override
from dof_lightning.cli.main import run
from dof_lightning.errors import UserError
from dof_lightning.factorization import noise
from dof_lightning.networks.mlp import MLPDenoiser
from tests.fixtures.policy_models import small_dof_policy
from tests.fixtures.synthetic import ALGORITHMS, build_algorithm
from tests.fixtures.toy_world import ToyEnv
from tests.fixtures.trainer_checkpoints import trained, untrained


class OwnNoise(noise.WConcat):
    """A factorisation outside this project: it has to be trusted."""


@pytest.fixture(autouse=True)
def _quiet(recwarn: pytest.WarningsRecorder) -> None:
    """Lightning has opinions on small loaders."""


def spread_policy() -> DoFPolicy:
    """A policy for a made-up dataset of Spread."""
    environment = make_env("mpe_spread").spec
    rng = torch.Generator().manual_seed(0)
    like = build_algorithm().spec
    statistics = like.statistics
    wide = {
        name: torch.randn(*shape, environment.n_agents, environment.observation_dim, generator=rng).numpy()
        for name, shape in (("mean", ()), ("minimum", ()), ("maximum", ()), ("knots", (11,)))
    }
    observations = replace(statistics.observations, **wide, std=abs(wide["mean"]) + 1)
    spec = replace(like, environment=environment, statistics=replace(statistics, observations=observations))
    return small_dof_policy(spec)


@pytest.mark.parametrize("weights_only", [False, True])
def test_an_algorithm_is_loaded_from_what_a_trainer_saved(tmp_path: Path, weights_only: bool) -> None:
    policy = small_dof_policy(reward_scale=0.5)
    path = trained(policy, tmp_path / "epoch=0-step=2.ckpt", weights_only)
    loaded = DoFPolicy.load_from_checkpoint(path)
    assert loaded.critic is not None
    assert (loaded.spec, loaded.critic.reward_scale) == (policy.spec, 0.5)
    assert loaded.settings.denoiser.keywords["hidden"] == [16, 16]  # type: ignore[attr-defined]
    ours, theirs = policy.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with pytest.raises(UserError, match="holds a DoFPolicy, no BC"):
        BC.load_from_checkpoint(path)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithms_settings_survive_a_checkpoint(name: str, tmp_path: Path) -> None:
    algorithm = build_algorithm(f"algorithm={name}")
    first, second = tmp_path / "first.ckpt", tmp_path / "second.ckpt"
    loaded = load_algorithm(untrained(algorithm, first))
    assert type(loaded) is type(algorithm)
    assert read(untrained(loaded, second)).config == read(first).config
    assert {key: value for key, value in read(first).config["algorithm"].items() if key != "_target_"}


def test_dof_eval_plays_where_the_spec_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = trained(spread_policy(), tmp_path / "own.ckpt")
    run(["eval", f"checkpoint={path}", "rollout.report_episodes=2", "sampler.steps=2"])
    score = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert score["episodes"] == 2
    assert score["certificate"]["passed"]
    run(["export", f"checkpoint={path}"])
    assert {file.name for file in (tmp_path / "own_agents").glob("*.json")} >= {"agent_0.json", "agent_1.json"}


def test_dof_eval_asks_for_a_world_that_has_no_name_here(tmp_path: Path) -> None:
    policy = build_algorithm("algorithm=bc")
    spec = replace(policy.spec, environment=replace(ToyEnv().spec, name="my_world"))
    path = trained(BCSettings()(spec), tmp_path / "own.ckpt")
    with pytest.raises(UserError, match=r"data came from 'my_world', which is no option of env; type the env="):
        override(read(path).config, [])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"denoiser": lambda spec, condition_dim: MLPDenoiser(spec, condition_dim, hidden=(8,))},
            "denoiser is .*lambda",
        ),
        ({"denoiser": partial(MLPDenoiser, hidden=(torch.tensor(8),))}, r"denoiser\.hidden is a Tensor"),
    ],
)
def test_settings_without_a_name_are_named(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = trained(small_dof_policy(**changes), tmp_path / "own.ckpt")
    with pytest.raises(UserError, match=f"lacks its settings: {words}"):
        DoFPolicy.load_from_checkpoint(path)
    assert read(path).weights  # they serve init_from=


def test_classes_of_others_have_to_be_trusted(tmp_path: Path) -> None:
    path = trained(small_dof_policy(noise_factorization=OwnNoise), tmp_path / "own.ckpt")
    with pytest.raises(UserError, match="trust=true"):
        DoFPolicy.load_from_checkpoint(path)
    assert isinstance(DoFPolicy.load_from_checkpoint(path, trust=True).noise_factorization, OwnNoise)
