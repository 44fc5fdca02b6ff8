"""Noise factorisations f: maps from the agents' noises and states to the joint ones."""

import copy
from typing import Self

from torch import Tensor, nn
from torch.nn import functional

from dof_lightning.errors import UserError
from dof_lightning.factorization.concat import Concat as Concat
from dof_lightning.factorization.concat import WeightedConcatenation
from dof_lightning.factorization.mixing import Mixing, ResidualAttention, attention
from dof_lightning.settings import Count
from dof_lightning.spec import DatasetSpec


class WConcat(WeightedConcatenation):
    """Weighted concatenation of per-agent parts (Li et al., 2025, Theorem 2, eqs. B.25-B.29).

    Weights are positive with geometric mean 1, so no loss can shrink them all; prediction, target and state are
    weighted alike, and at the optimum of a joint squared error w_i^2 is proportional to 1 / L_i, agent i's own error.
    """

    @property
    def weight(self) -> Tensor:
        """`[N]`, positive, geometric mean 1."""
        return (self.log_weight - self.log_weight.mean()).exp()

    def local(self, parts: Tensor) -> Tensor:
        """The parts as they are: in the weighted space the weights cancel, so each chain runs on its own x_i."""
        return parts


class DecAttention(Mixing):
    """Attention over all agents' noises in training, over an agent's own at execution ("Dec-Atten" in Li et al.).

    It is trained as softmax(Q K^T / sqrt(d)) V [inferred: the paper gives no formula]. At execution the teammates'
    terms are dropped, so agent i runs alone, but it does not run what was trained: this f does not satisfy IGD (Li et
    al., 2025, report 4.3 of 20 on 3m-Good).

    Args:
        spec: the dataset's spec; tokens are as wide as the wider of observations and actions.
        embed: width of the attention's embedded tokens.
        heads: number of attention heads, divides `embed`.

    Shapes:
        parts, joint: `[B, N, ..., D]`
    """

    local_execution = True

    def __init__(self, spec: DatasetSpec, embed: Count = 64, heads: Count = 4) -> None:
        super().__init__()
        self.attention = attention(spec, embed, heads)

    def join(self, parts: Tensor, condition: Tensor | None = None) -> Tensor:
        """Att_i(eps_1..eps_N)."""
        joint: Tensor = self.attention(parts)
        return joint

    def local(self, parts: Tensor) -> Tensor:
        """Att_i(eps_i): the softmax runs over agent i's own term only."""
        return self.attention.alone(parts)

    def select_agent(self, agent: int) -> Self:
        """A copy for one agent alone, which holds its own identity only."""
        selected = copy.deepcopy(self)
        selected.attention = self.attention.select_agent(agent)
        return selected


class Attention(ResidualAttention):
    """eps_i + softmax(Q K^T / sqrt(d)) V over all agents' noises at every step ("Atten" in Li et al.'s tables).

    It is centralised: a strong upper reference, not a factorisation, because the joint law is no product. [Formula
    inferred, the paper gives none; the residual term makes training start at concat.]
    """


class QMix(Mixing):
    """Monotone mixture of all agents' noises, with non-negative weights made from the state ("QMix" in Li et al.).

    joint_i = sum_e |W2(s)|_ei ELU(sum_j |W1(s)|_je eps_j + b1(s)_e) + b2(s)_i for every entry of eps alike: the mixing
    network of Rashid et al. (2018) with N outputs [inferred; the released code has one layer, and cannot run]. The
    state s is all agents' conditioning. The result is neither Gaussian nor local, so this f is centralised and does not
    satisfy IGD.

    Args:
        spec: the dataset's spec.
        embed: width of the mixing network's hidden layer.
    """

    def __init__(self, spec: DatasetSpec, embed: Count = 32) -> None:
        super().__init__()
        self.n_agents, self.embed = spec.n_agents, embed
        self.state_dim = spec.n_agents * spec.observation_dim
        inputs = self.state_dim + 1  # a constant input stands beside the state, as in the value mixer
        self.first_weight = nn.Linear(inputs, spec.n_agents * embed)
        self.first_bias = nn.Linear(inputs, embed)
        self.second_weight = nn.Linear(inputs, embed * spec.n_agents)
        self.second_bias = nn.Linear(inputs, spec.n_agents)

    def join(self, parts: Tensor, condition: Tensor | None = None) -> Tensor:
        """Mixes all agents' noises; every entry's derivative with respect to every agent's is non-negative."""
        context = functional.pad(self._state(parts, condition), (0, 1), value=1.0)
        first = self.first_weight(context).abs().unflatten(1, (self.n_agents, self.embed))
        second = self.second_weight(context).abs().unflatten(1, (self.embed, self.n_agents))
        entries = parts.flatten(2).transpose(1, 2)  # [B, entries, N]
        hidden = functional.elu(entries @ first + self.first_bias(context)[:, None])
        mixed = hidden @ second + self.second_bias(context)[:, None]
        return mixed.transpose(1, 2).reshape(parts.shape)

    def _state(self, parts: Tensor, condition: Tensor | None) -> Tensor:
        """`[B, S]`; zeros without a condition."""
        if condition is None:
            return parts.new_zeros(len(parts), self.state_dim)
        state = condition.flatten(1).to(parts.dtype)
        if state.shape[1] != self.state_dim:
            raise UserError(
                f"noise_factorization=qmix makes its weights from all agents' observations ({self.state_dim} numbers), "
                f"but this algorithm conditions on {state.shape[1]}; use algorithm=dof_policy or another factorisation"
            )
        return state
