"""How actors improve on the data by what the critics say: the seam beside `value_learning`."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from dof_lightning.actors.diffusion import Selection
from dof_lightning.algorithms.base import mean_over_ranks
from dof_lightning.algorithms.parts.losses import negative_value
from dof_lightning.errors import UserError
from dof_lightning.settings import Count, NonNegative, Positive, Range, Settings, WholeNumber

QGradientRoute = Literal["none", "one_step", "full"]
Temperature = Annotated[float, Range(0, excludes="low", because="algorithm.selection=argmax takes the best candidate")]
Judge = Callable[[Tensor], Tensor]

ADVANTAGE_SAMPLES = 4  # of the actors' own actions, by whose values the data's are judged
_LARGEST_WEIGHT = 100.0  # of a row, and 1 / that the smallest (IQL's bound, Kostrikov et al., 2022)
_SMALLEST_NORM = 1e-12  # of a gradient: an agent whose Q is flat has no direction to be pushed in


@dataclass(frozen=True, kw_only=True)
class ExtractionSettings(Settings):
    """How a diffused actor improves.

    Attributes:
        q_gradient: `none` (cloning), `one_step` (through the one-step estimate of x0) or `full` (through the sampler's
            chain).
        q_weight: eta, weight of L_q.
        q_balance: r; each agent's eta is set at every update so that the gradient of eta L_q is r times as large as
            that of its noise error; None keeps eta at `q_weight`.
        q_warmup_steps: updates in which only cloning and critics learn, before L_q and advantages count.
        advantage_temperature: T; each agent's cloning is weighted by exp(A_i / T), bounded, with T in the rewards' own
            unit; None clones all rows alike.
        candidates: M, actions that an agent draws at execution and ranks by its own Q_i.
        selection: among candidates, `argmax` takes the best, `softmax` draws one with probability ~ exp(Q_i / T).
        selection_temperature: T, in the rewards' own unit.
    """

    q_gradient: QGradientRoute = "one_step"
    q_weight: NonNegative = 0.5
    q_balance: Positive | None = None
    q_warmup_steps: WholeNumber = 0
    advantage_temperature: Positive | None = None
    candidates: Count = 10
    selection: Selection = "argmax"
    selection_temperature: Temperature = 1.0


def idle_of_extraction(settings: ExtractionSettings) -> dict[str, str]:
    """The fields of `ExtractionSettings` that nothing reads, see `AlgorithmSettings.idle`."""
    found: dict[str, str] = {}
    if settings.q_balance is not None:
        found["q_weight"] = "algorithm.q_balance sets eta"
    if settings.q_gradient == "none":
        found |= dict.fromkeys(("q_weight", "q_balance"), "algorithm.q_gradient=none")
        if settings.advantage_temperature is None:
            found["q_warmup_steps"] = "algorithm.q_gradient=none"
    if settings.selection == "argmax":
        found["selection_temperature"] = "algorithm.selection=argmax"
    if settings.candidates == 1:
        found |= dict.fromkeys(("selection", "selection_temperature"), "algorithm.candidates=1")
    return found


def check_extraction(settings: ExtractionSettings, critics: str, local_head: bool) -> None:
    """Refuses a gradient, weights and a ranking by values that nobody learns.

    Args:
        settings: what is asked for.
        critics: `none`, `separate`, `mixed` or `joint`.
        local_head: whether joint critics have one.

    Raises:
        UserError: names the key and the fix.
    """
    if settings.q_gradient != "none" and critics == "none":
        raise UserError(f"algorithm.q_gradient={settings.q_gradient} needs algorithm.critics=separate, mixed or joint")
    if settings.advantage_temperature is not None and critics == "none":
        raise UserError(
            f"algorithm.advantage_temperature={settings.advantage_temperature} weighs rows by critics: set "
            "algorithm.critics=separate, mixed or joint, or algorithm.advantage_temperature=null"
        )
    if settings.candidates > 1 and critics == "none":
        raise UserError(
            "algorithm.candidates above 1 needs critics to rank them: set algorithm.critics or candidates=1"
        )
    if settings.candidates > 1 and critics == "joint" and not local_head:
        raise UserError(
            f"algorithm.candidates={settings.candidates} with algorithm.critics=joint: no agent can rank its own "
            "candidates by a joint Q; set algorithm.local_head=true or algorithm.candidates=1"
        )


@dataclass(frozen=True)
class Proposal:
    """What the actors would do in a batch of rows, with its gradient.

    Attributes:
        actions: `[B, N, A]`.
        weight: how much each row counts, `[B, 1]` or `[B, N]`.
        outputs: S tensors `[B, N, ...]`, which the actors' networks gave and `actions` were made from.
        repeats: by how many rows of the cloning loss each output of a row has to be outweighed: K for a chain, each of
            whose steps is cloned in one row of K only.
    """

    actions: Tensor
    weight: Tensor
    outputs: Sequence[Tensor] = ()
    repeats: int = 1


@dataclass(frozen=True)
class Cloning:
    """The cloning loss, and the networks' output that it judges.

    Attributes:
        loss: scalar.
        output: `[B, N, ...]`.
    """

    loss: Tensor
    output: Tensor


class WarmUp(nn.Module):
    """Counts updates in a buffer that checkpoints hold, so that a resumed run goes on where it was.

    Args:
        steps: updates of the warm-up; with 0 there is none, and nothing is stored.
    """

    updates: Tensor

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        if steps:
            self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def choose(self, after: Tensor, before: Tensor) -> Tensor:
        """One of two tensors; the device decides, nobody waits for it."""
        return torch.where(self.updates >= self.steps, after, before) if self.steps else after

    def after_step(self) -> None:
        """Counts one update."""
        if self.steps:
            self.updates += 1


class QGradient:
    """eta L_q with L_q = -E[weight Q] / E|Q|: actors climb the critics' values (Wang et al., 2023; Kang et al., 2023).

    With a fixed eta, how far that leads from the data depends on how steep Q is, which differs between datasets and
    kinds of value learning. With a balance r, agent i's eta_i = r ||dL_cloning/do_i|| / ||dL_q/do_i||, the norms of the
    gradients by its network's output o_i over the batch (ours). Where the two hold each other, the output is off the
    cloned one by r / sqrt(1 - r^2) standard deviations of what cloning cannot predict, and the cloning loss is that of
    pure cloning divided by 1 - r^2: r is a divergence from cloning in the data's own unit, without a cloned model
    beside. From 1 on nothing but the limits of actions holds the actors near the data.

    Args:
        weight: eta.
        balance: r; None keeps eta.
    """

    def __init__(self, weight: float, balance: float | None = None) -> None:
        self.weight, self.balance = weight, balance

    def losses(
        self, judge: Judge, proposal: Proposal, cloning: Cloning | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What is added to the actors' loss, and scalars by tag; no gradient reaches the critics.

        Args:
            judge: the frozen critics' values `[B, N]` or `[B, 1]` of actions `[B, N, A]`.
            proposal: the actors'.
            cloning: needed with a balance.
        """
        if self.balance is None:
            value = negative_value(judge(proposal.actions), proposal.weight)
            return self.weight * value, {"loss/q": value}
        assert cloning is not None
        actions = proposal.actions.detach().requires_grad_()
        value = negative_value(judge(actions), proposal.weight)
        (slope,) = torch.autograd.grad(value, actions)
        pulls = (slope * proposal.actions).sum((0, 2))  # [N], of the same gradient: the critics are passed only once
        eta = self.balance * self._ratio(pulls.sum(), proposal, cloning)
        pull = (eta * (pulls - pulls.detach())).sum()
        return eta.mean() * value.detach() + pull, {"loss/q": value.detach(), "q/weight": eta.mean()}

    @staticmethod
    def _ratio(pull: Tensor, proposal: Proposal, cloning: Cloning) -> Tensor:
        """||dL_cloning/do_i|| / ||dL_q/do_i|| of every agent `[N]`, over all ranks' batches."""
        (held,) = torch.autograd.grad(cloning.loss, cloning.output, retain_graph=True)
        pulled = torch.autograd.grad(pull, proposal.outputs, retain_graph=True)
        of_q = proposal.repeats**2 * torch.stack([_squared_norms(one) for one in pulled]).mean(0)
        squared = mean_over_ranks(torch.stack([_squared_norms(held), of_q]))
        return (squared[0] / squared[1].clamp_min(_SMALLEST_NORM**2)).sqrt()


class Weighted:
    """Rows are cloned by the weight min(exp(A / T), 100): advantage-weighted regression (Peng et al., 2019, eq. 4).

    For diffusion it is each agent's rows of the denoising loss that are weighted, by its own A_i (EDP, Kang et al.,
    2023, section 4.3). Weights are also at least 1/100, and divided by their mean over the batch of all ranks, so that
    the cloning loss stays of the same size whatever the temperature.

    Args:
        temperature: T, in the advantages' unit; the larger, the more alike the weights.
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


def effective_share(weights: Tensor) -> Tensor:
    """(sum w)^2 / (n sum w^2) of weights `[B, N]`, mean over agents: 1 if all are alike, 1/n if one row has it all."""
    return (weights.mean(0).square() / weights.square().mean(0).clamp_min(1e-12)).mean()


def _squared_norms(gradient: Tensor) -> Tensor:
    """`[N]` of `[B, N, ...]`, in at least float32."""
    gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
    return gradient.square().sum([dim for dim in range(gradient.dim()) if dim != 1])
