"""What every pair of value learning and extraction promises: gradients go where they should, and nowhere else."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from dof_lightning.algorithms.dof_policy import DoFPolicy
from dof_lightning.algorithms.parts.extraction import Cloning
from dof_lightning.algorithms.parts.shared_seed import Assignment
from dof_lightning.algorithms.parts.value_learning import Conservative
from dof_lightning.batch import EpisodeBatch
from dof_lightning.factorization import data, value
from tests.fixtures.policy_models import generator, small_batch, small_dof_policy
from tests.fixtures.small_spec import small_spec
from tests.fixtures.synthetic import training_step

CRITICS = ["separate", "mixed", "joint"]
LEARNING: dict[str, dict[str, Any]] = {
    "td": {"value_learning": "td"},
    "conservative": {"value_learning": "conservative", "conservative_weight": 0.7, "conservative_samples": 3},
}
EXTRACTION: dict[str, dict[str, Any]] = {
    "one_step": {"q_gradient": "one_step"},
    "full": {"q_gradient": "full"},
    "balanced": {"q_gradient": "one_step", "q_balance": 0.5},
    "balanced_full": {"q_gradient": "full", "q_balance": 0.5},
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
    return small_batch(model.spec, size=size, dtype=torch.float64)


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
    assert bool(gradient(critic_loss, model.critic.online).any())
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
        ends.append(sum(found[tag] for tag in ("loss/critic", "loss/penalty") if tag in found))
    difference = ((ends[0] - ends[1]) / 2e-6).detach()
    torch.testing.assert_close(analytic @ direction, difference, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("critics", CRITICS)
@pytest.mark.parametrize("learning", list(LEARNING))
def test_dead_agents_teach_critics_and_actors_nothing(critics: str, learning: str) -> None:
    model = make(learning, "balanced", critics=critics)
    batch = batch_for(model)
    gone = torch.zeros(16, 3, dtype=torch.bool)
    gone[::3, 1] = True
    batch = replace(batch, alive=~gone[..., None].expand(-1, -1, 2), transition_mask=~gone[..., None])
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
