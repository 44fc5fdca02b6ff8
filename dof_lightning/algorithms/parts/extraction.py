"""Rules by which actors improve on the data with the critics' values; combined with those of `value_learning`.

Actors provide their actions with the gradient (`Proposal`) and their cloning loss. Actions are judged by a function of
them (`Judge`): the frozen values of separate, mixed or joint critics. `QGradient` climbs these values, `Weighted` and
`BatchWeighted` weight the rows of cloning, and `BestOf` finds actions for the actors to follow.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dof_lightning.algorithms.base import mean_over_ranks
from dof_lightning.algorithms.parts.losses import batch_weights, negative_value, weighted_mean

Judge = Callable[[Tensor], Tensor]

ADVANTAGE_SAMPLES = 4  # number of the actors' own actions against whose values the data's are judged
_LARGEST_WEIGHT = 100.0  # largest weight of a row; 1 / that is the smallest (IQL's bound, Kostrikov et al., 2022)
_SMALLEST_NORM = 1e-12  # smallest norm of a gradient: an agent whose Q is flat has no direction to be pushed in


@dataclass(frozen=True)
class Proposal:
    """The actors' actions in a batch of rows, with their gradient.

    Attributes:
        actions: `[B, N, A]`.
        weight: how much each row counts, `[B, 1]` or `[B, N]`.
        outputs: S tensors `[B, N, ...]`, the outputs of the actors' networks that `actions` were made from.
        repeats: number of rows of the cloning loss that each output of a row has to outweigh: K for a chain, because
            each of its steps is cloned in one of K rows only.
    """

    actions: Tensor
    weight: Tensor
    outputs: Sequence[Tensor] = ()
    repeats: int = 1


@dataclass(frozen=True)
class Cloning:
    """The cloning loss, and the networks' output that it applies to.

    Attributes:
        loss: scalar.
        output: `[B, N, ...]`.
    """

    loss: Tensor
    output: Tensor


class WarmUp(nn.Module):
    """Counts updates in a buffer that checkpoints hold, so that a resumed run continues where it was.

    Args:
        steps: number of updates of the warm-up; with 0 there is none, and nothing is stored.
    """

    updates: Tensor

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        if steps:
            self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def choose(self, after: Tensor, before: Tensor) -> Tensor:
        """Selects one of two tensors on the device, so that the CPU does not wait."""
        return torch.where(self.updates >= self.steps, after, before) if self.steps else after

    def after_step(self) -> None:
        """Counts one update."""
        if self.steps:
            self.updates += 1


class QGradient:
    """eta L_q with L_q = -E[weight Q] / E|Q|: actors climb the critics' values (Wang et al., 2023; Kang et al., 2023).

    With a fixed eta, the distance that this leads away from the data depends on how steep Q is, which differs between
    datasets and kinds of value learning. With a balance r, agent i has eta_i = r ||dL_cloning/do_i|| / ||dL_q/do_i||,
    with the norms of the gradients by its network's output o_i over the batch (ours). When the two gradients balance,
    the cloning loss is at most that of pure cloning divided by 1 - r^2: r bounds the divergence from cloning in the
    data's own unit, without a separate cloned model. If r >= 1, only the limits of actions keep the actors near the
    data.

    Args:
        weight: eta.
        balance: r; None keeps eta.
        unit: Q is divided by it; None means E|Q|.
    """

    def __init__(self, weight: float, balance: float | None = None, unit: float | None = None) -> None:
        self.weight, self.balance, self.unit = weight, balance, unit

    def losses(
        self, judge: Judge, proposal: Proposal, cloning: Cloning | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The term added to the actors' loss, and scalars by tag; no gradient reaches the critics.

        Args:
            judge: the frozen critics' values `[B, N]` or `[B, 1]` of actions `[B, N, A]`.
            proposal: the actors' proposal.
            cloning: the cloning loss, needed with a balance.
        """
        if self.balance is None:
            value = self._of(judge(proposal.actions), proposal.weight)
            return self.weight * value, {"loss/q": value}
        assert cloning is not None
        actions = proposal.actions.detach().requires_grad_()
        value = self._of(judge(actions), proposal.weight)
        (slope,) = torch.autograd.grad(value, actions)
        pulls = (slope * proposal.actions).sum((0, 2))  # [N], by the same gradient: one pass through the critics
        eta = self.balance * self._ratio(pulls.sum(), proposal, cloning)
        pull = (eta * (pulls - pulls.detach())).sum()
        return eta.mean() * value.detach() + pull, {"loss/q": value.detach(), "q/weight": eta.mean()}

    def _of(self, values: Tensor, weight: Tensor) -> Tensor:
        """L_q of values `[B, N]` or `[B, 1]`."""
        return negative_value(values, weight) if self.unit is None else -(weighted_mean(values, weight) / self.unit)

    @staticmethod
    def _ratio(pull: Tensor, proposal: Proposal, cloning: Cloning) -> Tensor:
        """||dL_cloning/do_i|| / ||dL_q/do_i|| of every agent `[N]`, over all ranks' batches."""
        (held,) = torch.autograd.grad(cloning.loss, cloning.output, retain_graph=True)
        pulled = torch.autograd.grad(pull, proposal.outputs, retain_graph=True)
        of_q = proposal.repeats**2 * torch.stack([_squared_norms(one) for one in pulled]).mean(0)
        squared = mean_over_ranks(torch.stack([_squared_norms(held), of_q]))
        return (squared[0] / squared[1].clamp_min(_SMALLEST_NORM**2)).sqrt()


class Weighted:
    """Cloning with row weights min(exp(A / T), 100): advantage-weighted regression (Peng et al., 2019, eq. 4).

    For diffusion, each agent's rows of the denoising loss are weighted by its own A_i (EDP, Kang et al., 2023, section
    4.3). Weights are also at least 1/100, and divided by their mean over the batch of all ranks, so that the size of
    the cloning loss does not depend on the temperature.

    Args:
        temperature: T, in the advantages' unit; the larger it is, the more alike the weights are.
    """

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    @torch.no_grad()
    def weights(self, advantage: Tensor, counts: Tensor) -> Tensor:
        """`[B, N]`, 0 where a row does not count, else of mean 1 for each agent.

        Args:
            advantage: `[B, N]`.
            counts: `[B, N]` bool.
        """
        bound = math.log(_LARGEST_WEIGHT)
        weight = (advantage / self.temperature).clamp(-bound, bound).exp() * counts
        total, rows = mean_over_ranks(torch.stack([weight.mean(0), counts.to(weight).mean(0)]))
        return weight * rows / total.clamp_min(1e-12)


class BatchWeighted(Weighted):
    """Cloning with row weights n softmax(A / T) over the n rows of this rank's batch (ICQ, Yang et al., 2021)."""

    @torch.no_grad()
    def weights(self, advantage: Tensor, counts: Tensor) -> Tensor:
        """See the base class; nothing bounds them but the batch."""
        return batch_weights(advantage, counts, self.temperature)


class BestOf:
    """The best of several actions, for actors to follow: those of a search without gradients (OMAR, Pan et al., 2022).

    Actions are drawn from N(mu, sigma), which move to the mean and the spread of the population weighted by softmax(Q),
    and the best is that of the last population and the actor's own. Diffused actors need no search: they draw M
    candidates of their own and take the best when they act.

    Args:
        iterations: number of populations that are drawn.
        samples: M, number of actions per population.
        std: sigma of the first population, whose mean is 0.
    """

    def __init__(self, iterations: int, samples: int, std: float) -> None:
        self.iterations, self.samples, self.std = iterations, samples, std

    @torch.no_grad()
    def find(
        self,
        judge: Judge,
        everywhere: Judge,
        actions: Tensor,
        mask: Tensor,
        unit: float,
        generator: torch.Generator,
    ) -> Tensor:
        """Finds actions `[B, N, A]` that are worth at least as much as the actors' own actions.

        Args:
            judge: each agent's own value `[B, N]` of actions in B rows.
            everywhere: the same for M copies of those rows, one after another.
            actions: `[B, N, A]`, the actors' actions.
            mask: `[N, A]` bool, False for padding.
            unit: Q is divided by it in the softmax.
            generator: draws the populations.
        """
        mean, std = torch.zeros_like(actions), torch.full_like(actions, self.std)
        shape = (self.samples, *actions.shape)
        own = judge(actions)
        population, values = actions[None], own[None]
        for _ in range(self.iterations):
            noise = torch.randn(shape, generator=generator, device=actions.device, dtype=actions.dtype)
            population = (mean + std * noise).clamp(-1.0, 1.0) * mask
            values = everywhere(population.flatten(0, 1)).reshape(shape[:-1])
            share = (values / unit).softmax(0)[..., None]
            mean = (share * population).sum(0)
            std = (share * (population - mean).square()).sum(0).sqrt()
        candidates = torch.cat([actions[None], population])
        best = torch.cat([own[None], values]).argmax(0)[None, ..., None].expand(1, *actions.shape)
        return candidates.gather(0, best)[0]


def effective_share(weights: Tensor) -> Tensor:
    """(sum w)^2 / (n sum w^2) of weights `[B, N]`, mean over agents: 1 if all are alike, 1/n if one row has it all."""
    return (weights.mean(0).square() / weights.square().mean(0).clamp_min(1e-12)).mean()


def _squared_norms(gradient: Tensor) -> Tensor:
    """`[N]` of `[B, N, ...]`, in at least float32."""
    gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
    return gradient.square().sum([dim for dim in range(gradient.dim()) if dim != 1])
