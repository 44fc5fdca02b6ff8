"""What every pair of value learning and extraction promises: gradients go where they should, and nowhere else."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from dof_lightning.actors.actions import CODECS
from dof_lightning.algorithms.dof_policy import DoFPolicy
from dof_lightning.algorithms.parts.actor_critic import ActorCritic
from dof_lightning.algorithms.parts.extraction import Cloning, Weighted
from dof_lightning.algorithms.parts.shared_seed import Assignment
from dof_lightning.algorithms.parts.value_learning import (
    Conservative,
    Expectile,
    Implicit,
    TemporalDifference,
    ValueLearning,
)
from dof_lightning.batch import EpisodeBatch, Window
from dof_lightning.factorization import data, value
from tests.fixtures.policy_models import generator, small_batch, small_dof_policy
from tests.fixtures.small_spec import small_spec
from tests.fixtures.synthetic import build_algorithm, random_batch, training_step

CRITICS = ["separate", "mixed", "joint"]
LEARNING: dict[str, dict[str, Any]] = {
    "td": {"value_learning": "td"},
    "conservative": {"value_learning": "conservative", "conservative_weight": 0.7, "conservative_samples": 3},
    "implicit": {"value_learning": "implicit", "implicit_temperature": 2.0},
    "expectile": {"value_learning": "expectile", "expectile": 0.8},
}
EXTRACTION: dict[str, dict[str, Any]] = {
    "one_step": {"q_gradient": "one_step"},
    "full": {"q_gradient": "full"},
    "balanced": {"q_gradient": "one_step", "q_balance": 0.5},
    "balanced_full": {"q_gradient": "full", "q_balance": 0.5},
    "weighted": {"q_gradient": "none", "advantage_temperature": 0.5},
    "weighted_one_step": {"q_gradient": "one_step", "advantage_temperature": 0.5},
    "best_of": {"q_gradient": "none"},
}
every_pair = pytest.mark.parametrize(
    ("critics", "learning", "extraction"),
    [(critics, learning, extraction) for critics in CRITICS for learning in LEARNING for extraction in EXTRACTION],
)


def make(learning: str = "td", extraction: str = "one_step", **changes: Any) -> DoFPolicy:
    """In float64; f and h concat, so that no agent's loss reaches another's denoiser."""
    chosen = {"noise_factorization": data.Concat, "data_factorization": data.Concat, **LEARNING[learning]}
    spec = changes.pop("spec", None) or small_spec(state_dim=5)
    return small_dof_policy(spec, **(chosen | EXTRACTION[extraction] | changes)).double()


def batch_for(model: DoFPolicy, size: int = 16) -> EpisodeBatch:
    return small_batch(model.spec, size=size, dtype=torch.float64, rows=model.window.length)


def losses(model: DoFPolicy, batch: EpisodeBatch) -> dict[str, Tensor]:
    return model.losses(batch, generator(3))


def gradient(loss: Tensor, part: nn.Module) -> Tensor:
    parameters = [p for p in part.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, found, strict=True)]
    )


def of_critics(model: DoFPolicy, found: dict[str, Tensor]) -> Tensor:
    not_theirs = ("loss/diffusion", "loss/reconstruction", "loss/q")
    return torch.stack([v for tag, v in found.items() if tag.startswith("loss/") and tag not in not_theirs]).sum()


def improvement(model: DoFPolicy, batch: EpisodeBatch) -> tuple[Tensor, Tensor, Cloning]:
    """What Q's gradient adds to the loss, L_q at eta 1, and the cloning loss, all of the same draws."""
    now, x0 = model._current(batch)
    assert model.critic is not None
    denoised = model.denoise(x0, now.condition, generator(4))
    proposal = model._propose(denoised, now, generator(5), Assignment())
    assert proposal is not None
    cloning = Cloning(model.diffusion_loss(denoised, model.entry_weight(x0, now.alive)), denoised.prediction)
    judge = model._judge(model.critic, now)
    plain = type(model.q_gradient)(1.0).losses(judge, proposal)[0]
    return model.q_gradient.losses(judge, proposal, cloning)[0], plain, cloning


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
def test_gradient_of_the_critics_equals_finite_differences(critics: str, learning: str) -> None:
    model = make(learning, "best_of", critics=critics, value_mixer=value.Monotone)
    batch, critic = batch_for(model), model.critic
    assert critic is not None
    parameters = list(critic.online.parameters())
    analytic = gradient(of_critics(model, losses(model, batch)), critic.online)
    start = parameters_to_vector(parameters).detach().clone()
    direction = torch.randn(start.shape, generator=generator(6), dtype=torch.float64)
    head = torch.cat(
        [torch.full((p.numel(),), name.startswith("critic.")) for name, p in critic.online.named_parameters()]
    )
    if critics == "joint":  # the heads follow the joint values, which they hold constant
        direction[head] = 0.0
    ends = []
    for sign in (1, -1):
        vector_to_parameters(start + sign * 1e-6 * direction, parameters)
        found = losses(model, batch)
        ends.append(sum(found[tag] for tag in ("loss/critic", "loss/penalty") if tag in found).detach())
    difference = (ends[0] - ends[1]) / 2e-6
    torch.testing.assert_close(analytic @ direction, difference, rtol=1e-5, atol=1e-7)


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
        rewards=torch.where(where[..., 0], 7.0, batch.rewards),
        actions=torch.where(where, -batch.actions, batch.actions),
    )
    for part in (model.denoiser, model.critic.online):  # type: ignore[union-attr]
        ours, theirs = (gradient(losses(model, each)["loss"], part) for each in (batch, changed))
        torch.testing.assert_close(ours, theirs)


def test_the_gap_of_a_sum_is_that_of_the_agents_own_values() -> None:
    """Each agent deviates alone, so the others' values cancel out."""
    gaps = []
    for critics in ("separate", "mixed"):
        model = make("conservative", critics=critics, value_mixer=value.Sum)
        batch, rule = batch_for(model), model.value_learning
        now, x0 = model._current(batch)
        assert isinstance(rule, Conservative)
        assert model.critic is not None
        gaps.append(rule.gap(model.critic, now, x0, torch.ones(16, 3, dtype=torch.float64), generator(1)))
    torch.testing.assert_close(*gaps)


@pytest.mark.parametrize("critics", CRITICS)
def test_the_gap_over_choices_is_the_exact_one(critics: str) -> None:
    spec = small_spec((3, 2, 4), action_kind="discrete", state_dim=5)
    model = make("conservative", critics=critics, spec=spec, conservative_samples=4000)
    batch, rule, critic = batch_for(model, 4), model.value_learning, model.critic
    now, x0 = model._current(batch)
    assert isinstance(rule, Conservative)
    assert critic is not None
    with torch.no_grad():
        for parameter in list(critic.online.parameters()):
            parameter.mul_(2.0)  # values that differ
        weight = torch.zeros(4, 3, dtype=torch.float64)
        weight[0, 2] = 1.0  # one agent in one row
        sampled = rule.gap(critic, now, x0, weight, generator(1)) * weight.numel()
        assert now.legal is not None
        choices = [a for a in range(4) if bool(now.legal[0, 2, a])]
        each = []
        for choice in choices:
            actions = x0.clone()
            actions[0, 2] = -1.0
            actions[0, 2, choice] = 1.0
            each.append(critic.online(now, actions)[:, 0, -1])
        exact = (torch.stack(each).logsumexp(0) - critic.online(now, x0)[:, 0, -1]).sum()
    torch.testing.assert_close(sampled, exact, rtol=0.03, atol=0.03)


@pytest.mark.parametrize("critics", CRITICS)
@pytest.mark.parametrize("extraction", ["balanced", "balanced_full"])
def test_a_balance_holds_each_agents_ratio_and_its_direction(critics: str, extraction: str) -> None:
    model = make("td", extraction, critics=critics)
    added, plain, cloning = improvement(model, batch_for(model))
    ours, theirs = (agent_gradients(loss, model) for loss in (added, plain))
    for mine, its in zip(ours, theirs, strict=True):
        assert bool(its.any())
        torch.testing.assert_close(torch.dot(mine, its), mine.norm() * its.norm())  # the same direction
    if extraction == "balanced":  # measured again where the network speaks
        pulled, held = (
            torch.autograd.grad(loss, cloning.output, retain_graph=True)[0] for loss in (added, cloning.loss)
        )
        ratio = (pulled.square().sum((0, 2)) / held.square().sum((0, 2))).sqrt()
        torch.testing.assert_close(ratio, torch.full((3,), 0.5, dtype=torch.float64))


@pytest.mark.parametrize("extraction", ["balanced", "balanced_full"])
def test_a_balance_does_not_feel_how_steep_q_is(extraction: str) -> None:
    model = make("td", extraction, critics="separate")
    before = agent_gradients(improvement(model, batch_for(model))[0], model)
    assert model.critic is not None
    last = model.critic.online.critic.network.layers[-1]  # type: ignore[union-attr]
    last.weight.data *= 0.01
    after = agent_gradients(improvement(model, batch_for(model))[0], model)
    torch.testing.assert_close(after, before)


def agent_gradients(loss: Tensor, model: DoFPolicy) -> list[Tensor]:
    """Of each agent's own slice of the denoisers' layers."""
    own = [p for name, p in model.denoiser.named_parameters() if name.startswith("network.")]
    found = torch.autograd.grad(loss, own, retain_graph=True)
    return [torch.cat([g[agent].flatten() for g in found]) for agent in range(3)]


@pytest.mark.parametrize("extraction", ["one_step", "balanced"])
def test_a_warm_up_clones_first_and_a_resumed_one_goes_on(extraction: str) -> None:
    def trained(model: DoFPolicy, first: int, steps: int) -> Tensor:
        optimizer = model.configure_optimizers()
        for step in range(first, steps):
            optimizer.state.clear()  # the test resumes weights and buffers only
            training_step(model, optimizer, batch_for(model), step)
        return parameters_to_vector(model.denoiser.parameters()).detach()

    warming, cloning = make("td", extraction, q_warmup_steps=2), make("td", "best_of")
    assert torch.equal(trained(warming, 0, 2), trained(cloning, 0, 2))
    resumed = make("td", extraction, q_warmup_steps=2, weights_seed=1)
    resumed.load_state_dict(warming.state_dict())
    without = trained(cloning, 2, 3)
    assert not torch.equal(trained(warming, 2, 3), without)
    assert not torch.equal(trained(resumed, 2, 3), without)
    assert torch.equal(*(parameters_to_vector(model.denoiser.parameters()) for model in (warming, resumed)))


def test_a_default_policy_stores_what_it_stored() -> None:
    """Checkpoints of earlier versions load, and hold nothing of the seams."""
    names = {name.partition(".")[0] for name in small_dof_policy().state_dict()}
    assert not names & {"value_learning", "warm_up", "q_gradient"}


@pytest.mark.parametrize("learning", ["td", "implicit", "expectile"])
@pytest.mark.parametrize("critics", CRITICS)
def test_the_weighted_noise_error_is_that_of_its_rows_by_their_weights(learning: str, critics: str) -> None:
    """And its gradient by finite differences: the weights are constants."""
    model = make(learning, "weighted", critics=critics)
    batch = batch_for(model)
    (now, x0), told = model._current(batch), Assignment()
    weights = model._advantage_weights(now, x0, told, generator(1))
    assert weights is not None
    torch.testing.assert_close(weights.mean(0), torch.ones_like(weights[0]))
    assert float(weights.std()) > 0.05
    parameters = list(model.denoiser.parameters())

    def written_out() -> Tensor:
        denoised = model.denoise(x0, now.condition, generator(3))
        rows = (denoised.prediction - denoised.noise).square().sum(-1)  # [B, N], padding is 0
        return (weights[..., 0] * rows).sum() / (16 * model.data_mask.sum())

    denoised = model.denoise(x0, now.condition, generator(3))
    loss = model.diffusion_loss(denoised, model.entry_weight(x0, None) * weights)
    torch.testing.assert_close(loss, written_out())
    analytic, start = gradient(loss, model.denoiser), parameters_to_vector(parameters).detach().clone()
    direction = torch.randn(start.shape, generator=generator(6), dtype=torch.float64)
    ends = []
    for sign in (1, -1):
        vector_to_parameters(start + sign * 1e-6 * direction, parameters)
        ends.append(written_out().detach())
    torch.testing.assert_close(analytic @ direction, (ends[0] - ends[1]) / 2e-6, rtol=1e-5, atol=1e-8)


def test_weights_are_bounded_grow_with_the_advantage_and_are_each_agents_own() -> None:
    advantage = torch.randn(200, 3, generator=generator(1), dtype=torch.float64) * torch.tensor([1.0, 10.0, 1000.0])
    counts = torch.rand(200, 3, generator=generator(2)) < 0.8
    weights = Weighted(0.5).weights(advantage, counts)
    assert not bool(weights[~counts].any())
    torch.testing.assert_close(weights.sum(0), counts.sum(0).double())
    for agent in range(3):
        mine, by = weights[counts[:, agent], agent], advantage[counts[:, agent], agent].argsort()
        assert bool((mine[by].diff() >= 0).all())
        assert float(mine.max() / mine.min()) <= 1.0001e4
    alike = Weighted(1e9).weights(advantage, counts)
    torch.testing.assert_close(alike[counts], torch.ones(int(counts.sum()), dtype=torch.float64), rtol=1e-4, atol=0)


def test_separate_advantages_are_the_agents_own() -> None:
    """Q_i(o_i, a_i) less the mean of Q_i over what the actor does: written out by the agents' own critics."""
    model = make("td", "weighted", critics="separate")
    (now, x0), critic = model._current(batch_for(model)), model.critic
    assert critic is not None
    drawn = torch.rand(5, *x0.shape, generator=generator(1), dtype=torch.float64) * 2 - 1
    found = model.value_learning.advantage(critic, now, x0, lambda: drawn)
    own = critic.target.critic
    expected = own(now.condition, x0).amin(0) - torch.stack([own(now.condition, a).amin(0) for a in drawn]).mean(0)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("critics", CRITICS)
def test_the_expectile_is_learned(critics: str) -> None:
    """V at tau 0.5 is the mean of Q over the data's actions, at 0.9 above it: one observation, many actions."""
    found = {}
    for tau in (0.5, 0.9):
        model = make("expectile", "best_of", critics=critics, expectile=tau, critic_learning_rate=1e-2)
        batch = batch_for(model, 64)
        batch.observations[:] = batch.observations[:1, :, :1]
        batch.state[:] = batch.state[:1, :1]  # type: ignore[index]
        rule, critic = model.value_learning, model.critic
        assert isinstance(rule, Expectile)
        assert critic is not None
        for parameter in critic.target.parameters():
            parameter.mul_(2.0)
        seen = model._experience(batch, *model._current(batch), Assignment(), generator(1))
        optimizer = torch.optim.Adam(rule.parameters(), lr=1e-2)
        for _ in range(150):
            optimizer.zero_grad()
            rule.losses(critic, seen, generator(2))["loss/state_value"].backward()
            optimizer.step()
        quality = critic.next_values(seen.now, seen.data).amin(0)
        found[tau] = ((rule._of(seen.now, seen.data).mean(0) - quality.mean(0)) / quality.std(0)).detach().mean()
    assert abs(float(found[0.5])) < 0.1
    assert float(found[0.9]) > 0.4


def test_in_sample_values_never_ask_the_actors() -> None:
    for learning in ("implicit", "expectile"):
        model = make(learning, "best_of")
        seen = model._experience(batch_for(model), *model._current(batch_for(model)), Assignment(), generator(1))
        never = replace(seen, next_actions=lambda: pytest.fail("asked for the actors' actions"))
        assert model.critic is not None
        assert bool(model.value_learning.losses(model.critic, never, generator(1))["loss/critic"].isfinite())


RULES: dict[str, Callable[[ActorCritic], ValueLearning]] = {
    "td": lambda algorithm: TemporalDifference(),
    "conservative": lambda algorithm: Conservative(0.7, 3, CODECS["continuous"], algorithm.action_mask),
    "implicit": lambda algorithm: Implicit(2.0),
    "expectile": lambda algorithm: Expectile(copy.deepcopy(algorithm.critic.online), 0.8),
}


def baseline(name: str, rule: str, *typed: str) -> tuple[ActorCritic, EpisodeBatch]:
    """A baseline that names another value learning, in float64, and a batch of two rows."""
    algorithm = build_algorithm(f"algorithm={name}", *typed)
    assert isinstance(algorithm, ActorCritic)
    algorithm.value_learning = RULES[rule](algorithm)
    batch = random_batch(algorithm.spec, Window(0, 2), size=16)
    doubles = {name: v.double() for name, v in vars(batch).items() if isinstance(v, Tensor) and v.is_floating_point()}
    return algorithm.double(), replace(batch, **doubles)


@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("name", ["td3_bc", "macql", "omar", "maicq"])
def test_baselines_differ_by_what_they_name(name: str, rule: str) -> None:
    """Each one's extraction goes with each value learning, and neither moves what the other learns."""
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
