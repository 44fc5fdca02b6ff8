"""The improvement of actors: eta by the ratio of two gradients, a warm-up, cloning weighted by advantage."""

import pytest
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from dof_lightning.algorithms.dof_policy import DoFPolicy
from dof_lightning.algorithms.parts.diffused import entry_weight
from dof_lightning.algorithms.parts.extraction import Cloning, Weighted
from dof_lightning.algorithms.parts.shared_seed import Assignment
from dof_lightning.batch import EpisodeBatch
from tests.fixtures.policy_models import generator, small_dof_policy
from tests.fixtures.seam_models import CRITICS, batch_for, gradient, make
from tests.fixtures.synthetic import training_step


def improvement(model: DoFPolicy, batch: EpisodeBatch) -> tuple[Tensor, Tensor, Cloning]:
    """The term that Q's gradient adds to the loss, L_q at eta 1, and the cloning loss, all of the same draws."""
    now, x0 = model._current(batch)
    assert model.critic is not None
    denoised = model.denoise(x0, now.condition, generator(4))
    proposal = model._propose(denoised, now, generator(5), Assignment())
    assert proposal is not None
    cloning = Cloning(model.diffusion_loss(denoised, entry_weight(model.data_mask, x0, now.alive)), denoised.prediction)
    judge = model._judge(model.critic, now)
    plain = type(model.q_gradient)(1.0).losses(judge, proposal)[0]
    return model.q_gradient.losses(judge, proposal, cloning)[0], plain, cloning


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
    """The gradients of each agent's own slice of the denoisers' layers."""
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
    """Its gradient is checked by finite differences: the weights are constants."""
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
    loss = model.diffusion_loss(denoised, entry_weight(model.data_mask, x0, None) * weights)
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
