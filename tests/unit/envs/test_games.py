"""The motivating games: their data have the declared law, and their experts behave as the datasets' names state."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data_modules.behavior.game_teams import Assignment, LandmarkExpert, LandmarkTeam, Mixture, MixtureTeam
from data_modules.collect import CollectedDataset
from data_modules.storage.manifest import read_manifest
from dof_lightning.config import catalog
from dof_lightning.config import compose as configuration
from dof_lightning.envs.games import SIGMA, GaussianGame, LandmarkGame, actions_of, coordinates
from dof_lightning.envs.particle.env import ParticleEnv
from dof_lightning.errors import UserError
from dof_lightning.rollout.certificate import certify
from dof_lightning.rollout.recorder import Rollout
from dof_lightning.rollout.run import run_rollout
from tests.fixtures.policy_models import generator

GAUSSIAN = [name for name in catalog.options("env") if name.startswith("game_gaussian_")]
ASSIGNMENTS: tuple[Assignment, ...] = ("fixed", "hungarian", "random")
DRAWS = 20_000


def gaussian_game(option: str) -> GaussianGame:
    game: GaussianGame = configuration.build(
        configuration.compose(["experiment=game_gaussian", f"env={option}"])["env"]
    )
    return game


def quadrants(points: Tensor) -> Tensor:
    index = 2 * (points[:, 0] > 0).long() + (points[:, 1] > 0).long()
    return torch.bincount(index, minlength=4).reshape(2, 2) / len(points)


def played(assignment: Assignment, episodes: int = 400, noise: float = 0.1) -> Rollout:
    return run_rollout(
        LandmarkTeam(assignment, noise), LandmarkGame(), torch.arange(episodes), (0, "test"), record=True
    )


def distances(rollout: Rollout) -> Tensor:
    """Distances `[E, N, T + 1, L]` from agents to landmarks."""
    assert rollout.observations is not None
    return rollout.observations[..., 4:10].unflatten(-1, (3, 2)).norm(dim=-1)


@pytest.mark.parametrize("option", GAUSSIAN)
def test_true_data_have_the_declared_quadrants_and_width(option: str) -> None:
    game = gaussian_game(option)
    points = game.draw(DRAWS, generator())
    torch.testing.assert_close(quadrants(points), game.weights.float(), rtol=0, atol=0.02)
    away = points - points.sign()
    assert float(away.std()) == pytest.approx(SIGMA, rel=0.02)
    assert float(game.on_support(points).float().mean()) == pytest.approx(1 - math.exp(-4.5), abs=0.005)


def test_the_behavior_acts_out_the_mixture_and_earns_its_reward() -> None:
    game = gaussian_game("game_gaussian_xor")
    rollout = run_rollout(MixtureTeam(game), game, torch.arange(4000), (0, "test"), record=True)
    assert rollout.actions is not None
    points = coordinates(rollout.actions[:, :, 0])
    torch.testing.assert_close(quadrants(points), game.weights.float(), rtol=0, atol=0.03)
    assert rollout.returns.mean() > 0.97
    assert bool((rollout.lengths == 1).all())


def test_the_reward_of_a_coin_each_is_a_half_on_xor() -> None:
    game = gaussian_game("game_gaussian_xor")
    coins = torch.randint(2, (DRAWS, 2), generator=generator()) * 2.0 - 1.0
    game.reset(torch.arange(DRAWS))
    assert float(game.step(actions_of(coins)).rewards.mean()) == pytest.approx(0.5, abs=0.02)
    torch.testing.assert_close(coordinates(actions_of(coins)), coins)


@pytest.mark.parametrize(
    "weights", [[[0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]], [[1.5, -0.5], [0.0, 0.0]], [[0.5], [0.5, 0.0]]]
)
def test_weights_that_are_no_table_are_refused(weights: list[list[float]]) -> None:
    with pytest.raises(UserError, match=r"env.weights.*sum to 1"):
        GaussianGame(weights)


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_experts_cover_all_landmarks(assignment: Assignment) -> None:
    end = distances(played(assignment))[:, :, -1]
    covered = (end.amin(1) < 0.1).all(-1).float().mean()
    assert covered >= 0.95
    assert bool((end.argmin(-1).sort(-1).values == torch.arange(3)).all(-1).float().mean() >= 0.95)


def test_experts_take_the_landmarks_that_their_assignment_says() -> None:
    taken = {name: distances(played(name))[:, :, -1].argmin(-1) for name in ASSIGNMENTS}
    assert float((taken["fixed"] == torch.arange(3)).float().mean()) > 0.98
    start = distances(played("hungarian"))[:, :, 0]
    cost = {name: start.gather(2, index[..., None]).sum((1, 2)) for name, index in taken.items()}
    assert bool((cost["hungarian"] <= cost["fixed"] + 1e-4).float().mean() > 0.98)
    assert cost["hungarian"].mean() < cost["random"].mean() - 0.5


def test_random_assignments_are_uniform_over_the_six_and_kept_through_an_episode() -> None:
    team, episodes = LandmarkTeam("random", 0.0), 6000
    noise = team.draw_noise(episodes, generator())
    observations = LandmarkGame().reset(torch.arange(episodes))
    _, carry = team.act_on_noise(observations, team.initial_carry(episodes, torch.device("cpu")), None, noise)
    counts = Counter(tuple(row) for row in carry["landmark"].tolist())
    assert len(counts) == 6
    chi_squared = sum((count - 1000) ** 2 / 1000 for count in counts.values())
    assert chi_squared < 20.5  # of 5 degrees of freedom, passed by one uniform draw in 1000
    other = team.draw_noise(episodes, generator(1))
    assert torch.equal(team.act_on_noise(observations, carry, None, other)[1]["landmark"], carry["landmark"])


def test_a_first_action_points_where_its_agent_goes() -> None:
    rollout = played("random", noise=0.0)
    assert rollout.observations is not None
    assert rollout.actions is not None
    ways = rollout.observations[:, :, 0, 4:10].unflatten(-1, (3, 2))
    headed = torch.cosine_similarity(rollout.actions[:, :, 0, None], ways, dim=-1).argmax(-1)
    assert float((headed == distances(rollout)[:, :, -1].argmin(-1)).float().mean()) > 0.98


@pytest.mark.parametrize("assignment", ["fixed", "hungarian"])
def test_experts_that_see_their_assignment_act_alone(assignment: Assignment) -> None:
    team = LandmarkTeam(assignment, 0.2)
    assert certify(team, LandmarkGame(), seed=0).passed
    noise, observations = team.draw_noise(4, generator()), LandmarkGame().reset(torch.arange(4))
    together, _ = team.act_on_noise(observations, None, None, noise)
    alone, _ = team.export(2).act_on_noise(observations[:, 2:], None, None, noise[:, 2:])
    torch.testing.assert_close(alone, together[:, 2:])


def test_what_is_drawn_at_once_is_not_exported() -> None:
    for team in (LandmarkTeam("random", 0.2), MixtureTeam(gaussian_game("game_gaussian_xor"))):
        assert not team.acts_alone
        with pytest.raises(UserError, match="for all agents together"):
            team.export(0)


def test_behaviors_refuse_other_worlds_and_unknown_assignments() -> None:
    for behavior in (Mixture(), LandmarkExpert("fixed", 0.2)):
        with pytest.raises(UserError, match=r"data\.source\.behavior"):
            behavior.identity(ParticleEnv("spread").spec)
    unknown: Any = "greedy"
    with pytest.raises(UserError, match=r"behavior\.assignment"):
        LandmarkExpert(unknown, 0.2)


def test_different_laws_are_different_datasets(tmp_path: Path) -> None:
    common: dict[str, Any] = {"episodes": 60, "seed": 0, "discount": 0.99, "root": str(tmp_path)}
    sources = [CollectedDataset("game", gaussian_game(option), Mixture(), **common) for option in GAUSSIAN]
    sources += [CollectedDataset("game", LandmarkGame(), LandmarkExpert(name, 0.2), **common) for name in ASSIGNMENTS]
    assert len({source.path for source in sources}) == len(sources)
    for source in (sources[0], sources[-1]):
        assert read_manifest(source.ensure(progress=False)).spec.n_agents == source.environment.spec.n_agents
