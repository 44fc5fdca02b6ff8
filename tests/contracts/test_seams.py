"""The contract of every pair of value learning and extraction: gradients reach the parts they should, and no others."""

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from dof_lightning.actors.actions import CODECS
from dof_lightning.algorithms.parts.actor_critic import ActorCritic
from dof_lightning.algorithms.parts.value_learning import (
    Conservative,
    Expectile,
    Implicit,
    TemporalDifference,
    ValueLearning,
)
from dof_lightning.batch import EpisodeBatch, Window
from tests.fixtures.policy_models import generator
from tests.fixtures.seam_models import CRITICS, EXTRACTION, LEARNING, batch_for, gradient, losses, make, of_critics
from tests.fixtures.synthetic import build_algorithm, random_batch

every_pair = pytest.mark.parametrize(
    ("critics", "learning", "extraction"),
    [(critics, learning, extraction) for critics in CRITICS for learning in LEARNING for extraction in EXTRACTION],
)


@every_pair
def test_actors_move_no_critic_and_critics_no_actor(critics: str, learning: str, extraction: str) -> None:
    model = make(learning, extraction, critics=critics)
    found = losses(model, batch_for(model))
    assert all(loss.shape == () and bool(loss.isfinite()) for loss in found.values())
    assert model.critic is not None
    critic_loss = of_critics(model, found)
    for part in (model.critic.online, *model.value_learning.children()):
        assert bool(gradient(critic_loss, part).any())
    assert not bool(gradient(critic_loss, model.denoiser).any())
    torch.testing.assert_close(
        gradient(found["loss"], model.critic.online), gradient(critic_loss, model.critic.online), rtol=1e-10, atol=1e-14
    )
    assert bool(gradient(found["loss"], model.denoiser).any())
    assert all(p.grad is None for p in model.critic.target.parameters())


@pytest.mark.parametrize("critics", CRITICS)
@pytest.mark.parametrize("learning", list(LEARNING))
def test_dead_agents_teach_critics_and_actors_nothing(critics: str, learning: str) -> None:
    model = make(learning, "balanced", critics=critics, advantage_temperature=0.5)
    batch = batch_for(model)
    gone = torch.zeros(16, 3, dtype=torch.bool)
    gone[::3, 1] = True
    alive = ~gone[..., None].expand(-1, -1, model.window.length + 1)
    batch = replace(batch, alive=alive, transition_mask=alive[..., 1:])
    where = gone[..., None, None]
    changed = replace(
        batch,
        observations=torch.where(where, 5.0, batch.observations),
        actions=torch.where(where, -batch.actions, batch.actions),
    )
    if critics == "separate":  # a team's reward is the mean over all agents
        changed.rewards = torch.where(where[..., 0], 7.0, batch.rewards)
    for part in (model.denoiser, model.critic.online):  # type: ignore[union-attr]
        ours, theirs = (gradient(losses(model, each)["loss"], part) for each in (batch, changed))
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("learning", list(LEARNING))
def test_the_step_in_which_an_agent_dies_teaches_its_own_critic(learning: str) -> None:
    model = make(learning, "balanced", critics="separate", advantage_temperature=0.5)
    batch = batch_for(model)
    alive = torch.ones(16, 3, model.window.length + 1, dtype=torch.bool)
    alive[::3, 1, 1:] = False  # the action of the current row is the last one
    batch = replace(batch, alive=alive, transition_mask=alive[..., :-1], terminated=torch.zeros_like(batch.terminated))
    rewards = batch.rewards.clone()
    rewards[::3, 1, 0] += 10.0
    critic = model.critic.online  # type: ignore[union-attr]
    ours, theirs = (gradient(losses(model, each)["loss"], critic) for each in (batch, replace(batch, rewards=rewards)))
    assert not torch.allclose(ours, theirs)


RULES: dict[str, Callable[[ActorCritic], ValueLearning]] = {
    "td": lambda algorithm: TemporalDifference(),
    "conservative": lambda algorithm: Conservative(0.7, 3, CODECS["continuous"], algorithm.action_mask),
    "implicit": lambda algorithm: Implicit(2.0),
    "expectile": lambda algorithm: Expectile(copy.deepcopy(algorithm.critic.online), 0.8),
}


def baseline(name: str, rule: str, *typed: str) -> tuple[ActorCritic, EpisodeBatch]:
    """A baseline with another value learning, in float64, and a batch of two rows."""
    algorithm = build_algorithm(f"algorithm={name}", *typed)
    assert isinstance(algorithm, ActorCritic)
    algorithm.value_learning = RULES[rule](algorithm)
    batch = random_batch(algorithm.spec, Window(0, 2), size=16)
    doubles = {name: v.double() for name, v in vars(batch).items() if isinstance(v, Tensor) and v.is_floating_point()}
    return algorithm.double(), replace(batch, **doubles)


@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("name", ["td3_bc", "macql", "omar", "maicq"])
def test_baselines_differ_by_what_they_name(name: str, rule: str) -> None:
    """Each extraction works with each value learning, and neither trains the other's parameters."""
    algorithm, batch = baseline(name, rule)
    found = algorithm.losses(batch, generator(1))
    of_values = found["loss"] - found["loss/actor"]
    assert bool(gradient(found["loss/actor"], algorithm.actor).any())
    for part in (algorithm.critic.online, *algorithm.value_learning.children()):
        assert bool(gradient(of_values, part).any())
        assert not bool(gradient(found["loss/actor"], part).any())
    assert not bool(gradient(of_values, algorithm.actor).any())


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        ("macql", ()),
        ("td3_bc", ("algorithm.alpha=0",)),  # with alpha, |Q| is held constant
        ("maicq", ("algorithm.actor_temperature=1e12",)),  # weights that feel the actors are held constant
    ],
)
def test_gradient_of_the_actors_equals_finite_differences(name: str, typed: tuple[str, ...]) -> None:
    algorithm, batch = baseline(name, "td", *typed)
    parameters = list(algorithm.actor.parameters())
    analytic = gradient(algorithm.losses(batch, generator(1))["loss/actor"], algorithm.actor)
    start = parameters_to_vector(parameters).detach().clone()
    direction, ends = torch.randn(start.shape, generator=generator(6), dtype=torch.float64), []
    for sign in (1, -1):
        vector_to_parameters(start + sign * 1e-6 * direction, parameters)
        ends.append(algorithm.losses(batch, generator(1))["loss/actor"].detach())
    torch.testing.assert_close(analytic @ direction, (ends[0] - ends[1]) / 2e-6, rtol=1e-5, atol=1e-8)
