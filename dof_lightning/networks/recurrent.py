"""A network with a memory: one number per discrete choice, from everything that an agent has seen."""

import torch
from torch import Tensor, nn

from dof_lightning.networks.embedding import Identified
from dof_lightning.settings import Count
from dof_lightning.spec import DatasetSpec


class RecurrentNetwork(Identified):
    """Linear, ReLU, GRU, ReLU, Linear: one network that all agents share and that also reads a one-hot agent id.

    This is the common network of discrete baselines (OG-MARL, Formanek et al., 2023). Row i of a result depends on
    agent i's own rows only, up to the present one.

    Args:
        spec: the dataset's spec; A = `spec.action_dim`.
        condition_dim: C, number of entries that each agent sees.
        hidden: width of the first layer and of the memory.

    Shapes:
        seen `[B, N, T, C]`, memory `[B, N, hidden]` or None (an empty memory); results `[B, N, T, A]` and the
        memory after the last row `[B, N, hidden]`
    """

    def __init__(self, spec: DatasetSpec, condition_dim: int, hidden: Count = 64) -> None:
        super().__init__(spec.n_agents, "shared")
        self.hidden = hidden
        self.first = nn.Linear(condition_dim + spec.n_agents, hidden)
        self.last = nn.Linear(hidden, spec.action_dim)
        # The parameters of `nn.GRU`, whose module holds weak references that cannot be exported.
        bound = hidden**-0.5
        self.input_weight = nn.Parameter(torch.empty(3 * hidden, hidden).uniform_(-bound, bound))
        self.memory_weight = nn.Parameter(torch.empty(3 * hidden, hidden).uniform_(-bound, bound))
        self.input_bias = nn.Parameter(torch.empty(3 * hidden).uniform_(-bound, bound))
        self.memory_bias = nn.Parameter(torch.empty(3 * hidden).uniform_(-bound, bound))

    def forward(self, seen: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Reads T rows one after another."""
        batch, agents, rows = seen.shape[:3]
        first = torch.relu(self.first(self.identified(seen))).to(self.input_weight.dtype)
        if memory is None:
            memory = first.new_zeros(batch, agents, self.hidden)
        # cuDNN and autocast differ on mixed precisions here; the memory is small, so it stays in full precision.
        with torch.autocast(seen.device.type, enabled=False):
            weights: list[Tensor] = [self.input_weight, self.memory_weight, self.input_bias, self.memory_bias]
            remembered, after = torch.gru(
                first.flatten(0, 1), memory.reshape(1, batch * agents, self.hidden), weights,
                True, 1, 0.0, self.training, False, True,
            )  # fmt: skip
        results: Tensor = self.last(torch.relu(remembered))
        return results.reshape(batch, agents, rows, -1), after.reshape(batch, agents, self.hidden)
