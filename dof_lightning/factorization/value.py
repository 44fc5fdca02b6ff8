"""Value mixers: data factorisations h of agents whose data are values Q_i."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from dof_lightning.factorization.attention import AgentAttention
from dof_lightning.factorization.base import ValueMixer
from dof_lightning.settings import Count
from dof_lightning.spec import DatasetSpec


class Sum(ValueMixer):
    """Q_tot = sum_i Q_i (VDN, Sunehag et al., 2018)."""

    satisfies_igm = True

    def __init__(self, spec: DatasetSpec, state_dim: int) -> None:
        super().__init__()

    def forward(self, values: Tensor, state: Tensor) -> Tensor:
        """The sum over agents."""
        return values.sum(dim=1)


class Monotone(ValueMixer):
    """Two layers over the Q_i whose non-negative weights are made from the state (QMIX, Rashid et al., 2018).

    Args:
        embed: width of the mixing network's hidden layer.
        hyper_hidden: width of a layer between the state and the weights; None means no such layer.
    """

    satisfies_igm = True

    def __init__(self, spec: DatasetSpec, state_dim: int, embed: Count = 32, hyper_hidden: Count | None = None) -> None:
        super().__init__()
        self.n_agents, self.embed = spec.n_agents, embed
        # One constant input stands beside the state: an empty state would leave the hyper-networks without any input.
        inputs = state_dim + 1
        self.first_weight = _hyper_network(inputs, hyper_hidden, spec.n_agents * embed)
        self.first_bias = nn.Linear(inputs, embed)
        self.second_weight = _hyper_network(inputs, hyper_hidden, embed)
        self.second_bias = nn.Sequential(nn.Linear(inputs, embed), nn.ReLU(), nn.Linear(embed, 1))

    def forward(self, values: Tensor, state: Tensor) -> Tensor:
        """Mixes the values; the derivative with respect to every value is non-negative."""
        return self.each(values[None], state)[0]

    def each(self, values: Tensor, state: Tensor) -> Tensor:
        """See the base class; the weights of each state are computed once."""
        context = functional.pad(state, (0, 1), value=1.0)
        first_weight = self.first_weight(context).abs().unflatten(1, (self.n_agents, self.embed))
        hidden = functional.elu(torch.sum(values * first_weight, dim=-2) + self.first_bias(context))
        second_weight = self.second_weight(context).abs()
        return torch.sum(hidden * second_weight, dim=-1, keepdim=True) + self.second_bias(context)


def _hyper_network(inputs: int, hidden: Count | None, outputs: int) -> nn.Module:
    if hidden is None:
        return nn.Linear(inputs, outputs)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


class Weighted(ValueMixer):
    """Q_tot = sum_i w_i Q_i with learned constants w_i > 0: h = WConcat for values [inferred]; w_i = 1 at the start.

    The TD target fixes the scale of Q_tot, so the weights need no constraint.
    """

    satisfies_igm = True

    def __init__(self, spec: DatasetSpec, state_dim: int) -> None:
        super().__init__()
        self.log_weight = nn.Parameter(torch.zeros(spec.n_agents))

    def forward(self, values: Tensor, state: Tensor) -> Tensor:
        """The weighted sum over agents."""
        return (values * self.log_weight.exp()[:, None]).sum(dim=1)


class StateWeighted(ValueMixer):
    """Q_tot = sum_i k_i(s) Q_i + b(s), k_i >= 0 and sum_i k_i = 1 (ICQ-MA, Yang et al., 2021, section 4.3).

    Args:
        hidden: width of the layer between state and weights.
    """

    satisfies_igm = True

    def __init__(self, spec: DatasetSpec, state_dim: int, hidden: Count = 64) -> None:
        super().__init__()
        inputs = state_dim + 1  # a constant stands beside the state, as in `Monotone`
        self.weight = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, spec.n_agents))
        self.bias = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def weights(self, state: Tensor) -> Tensor:
        """The k_i `[B, N]`."""
        size = self.weight(functional.pad(state, (0, 1), value=1.0)).abs()
        return size / size.sum(1, keepdim=True).clamp_min(1e-6)

    def forward(self, values: Tensor, state: Tensor) -> Tensor:
        """The weighted sum over agents plus the state's own value b(s)."""
        weighted = (values.squeeze(-1) * self.weights(state)).sum(1, keepdim=True)
        return weighted + self.bias(functional.pad(state, (0, 1), value=1.0))


class Attention(ValueMixer):
    """Q_tot = b(s) + N sum_h |w_h(s)| sum_i softmax_i(q_h(s) . k_h,i(s) / sqrt(d)) Q_i (Qatten, Yang et al., 2020).

    This is h = Atten for values. Queries and keys come from the state only, so the weights of the Q_i are positive
    whatever the Q_i are, and Q_tot is monotone in each; scores made from the Q_i themselves would break that.
    [Inferred: Li et al. (2025) give no formula.]

    Args:
        heads: H, number of attention heads.
        embed: d, width of queries and keys.
    """

    satisfies_igm = True

    def __init__(self, spec: DatasetSpec, state_dim: int, heads: Count = 4, embed: Count = 16) -> None:
        super().__init__()
        self.n_agents, self.heads, self.embed = spec.n_agents, heads, embed
        inputs = state_dim + 1  # a constant stands beside the state, as in `Monotone`
        self.query = nn.Linear(inputs, heads * embed)
        self.key = nn.Linear(inputs, heads * spec.n_agents * embed)
        self.head_weight = nn.Linear(inputs, heads)
        self.bias = nn.Sequential(nn.Linear(inputs, 2 * embed), nn.ReLU(), nn.Linear(2 * embed, 1))

    def forward(self, values: Tensor, state: Tensor) -> Tensor:
        """Mixes the values; the derivative with respect to every value is positive."""
        context = functional.pad(state, (0, 1), value=1.0)
        query = self.query(context).unflatten(1, (self.heads, self.embed, 1))
        key = self.key(context).unflatten(1, (self.heads, self.n_agents, self.embed))
        weight = (key @ query / self.embed**0.5).softmax(2)  # [B, H, N, 1]
        of_heads = self.n_agents * (weight * values[:, None]).sum((2, 3))  # as large as a sum's
        return (of_heads * self.head_weight(context).abs()).sum(1, keepdim=True) + self.bias(context)


class SelfAttention(ValueMixer):
    """Q_tot = sum_i (Q_i + Att_i(Q_1..Q_N)): h = Atten of Li et al. (2025) for values, with tokens made of Q_i.

    Scores and values of the attention depend on the Q_i, so Q_tot may fall when a Q_i grows: it represents payoffs that
    no monotone mixer can, and does not promise IGM. Training starts at the plain sum, so each Q_i starts out as the
    agent's additive share. [Formula inferred, as is that of `data.Attention`.]

    Args:
        embed: width of the attention.
        heads: of the attention, divides `embed`.
    """

    satisfies_igm = False

    def __init__(self, spec: DatasetSpec, state_dim: int, embed: Count = 32, heads: Count = 4) -> None:
        super().__init__()
        self.attention = AgentAttention(spec.n_agents, 1, embed, heads)
        nn.init.zeros_(self.attention.out.weight)
        nn.init.zeros_(self.attention.out.bias)

    def forward(self, values: Tensor, state: Tensor) -> Tensor:
        """The sum over agents of their own values and of the attention's terms."""
        return (values + self.attention(values)).sum(dim=1)
