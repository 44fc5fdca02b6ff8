"""A condition for planners in place of a return: the advantage, how much better than usual the next step went."""

import torch
from torch import Tensor, nn

from dof_lightning.algorithms.base import mean_over_ranks
from dof_lightning.batch import EpisodeBatch
from dof_lightning.networks.value import StateValue
from dof_lightning.normalization import Normalizer
from dof_lightning.spec import DatasetSpec

_DECAY = 0.99  # decay of the mean square of advantages: averages over some 100 updates


class AdvantageCondition(nn.Module):
    """z_i = A_i / std(A_i), A_i = r_i + gamma V_i(o_i', t + 1) - V_i(o_i, t), as condition of agent i.

    The return R_t depends on what every agent does in all remaining steps, so hardly any of its variance is due to the
    action at t, and the same holds for R_t - V(o_t); A is what remains once the rest is averaged out (Sutton and Barto,
    2018, section 13.5). V is regressed on R_t, so it is the data's own value. It also receives the time, because
    episodes end. Agents need neither V nor rewards to request a constant z.

    Args:
        spec: the dataset's spec.
        scale: returns are divided by it.
    """

    square: Tensor
    seen: Tensor

    def __init__(self, spec: DatasetSpec, scale: float) -> None:
        super().__init__()
        self.value = StateValue(spec)
        self.scale, self.discount, self.episode_length = scale, spec.discount, spec.horizon
        self.register_buffer("square", torch.zeros(spec.n_agents))
        self.register_buffer("seen", torch.zeros(()))

    def values(self, batch: EpisodeBatch, normalizer: Normalizer) -> Tensor:
        """V `[B, N, T + 1]` of all rows, in units of `scale`.

        Args:
            batch: windows.
            normalizer: of observations.
        """
        observed = normalizer.normalize(batch.observations)
        rows = observed.shape[2]
        elapsed = (batch.t[:, None] + torch.arange(rows, device=batch.t.device) - batch.history) / self.episode_length
        clock = elapsed.to(observed.dtype)[:, None, :, None].expand(*observed.shape[:3], 1)
        inputs = torch.cat([observed, clock], dim=-1).transpose(1, 2).flatten(0, 1)
        with torch.autocast(inputs.device.type, enabled=False):  # advantages are small differences of values
            values: Tensor = self.value(inputs.to(torch.promote_types(inputs.dtype, torch.float32)))
        return values.reshape(-1, rows, observed.shape[1]).transpose(1, 2)

    def losses(self, batch: EpisodeBatch, values: Tensor) -> dict[str, Tensor]:
        """`loss/return_value`: E (V - R)^2 over the window's real rows; and the share of R's variance that V explains.

        Rows of dead agents count, because their team's return goes on: V there is part of the advantage of dying.

        Args:
            batch: windows.
            values: from `values`.
        """
        inside = batch.valid[:, :-1] & (batch.valid[:, 1:] | batch.terminated)
        returns = batch.return_to_go / self.scale
        counts = inside[:, None].expand_as(returns).to(values.dtype)
        error = counts * (values[:, :, :-1] - returns).square()
        real = counts.sum().clamp_min(1.0)
        variance = (counts * (returns - (counts * returns).sum() / real).square()).sum().clamp_min(1e-12)
        return {"loss/return_value": error.mean(), "advantage/explained_share": 1 - error.detach().sum() / variance}

    @torch.no_grad()
    def advantages(self, batch: EpisodeBatch, values: Tensor) -> Tensor:
        """`[B, N]`: A_i of the current row, in units of `scale`, 0 where its transition is not real.

        Args:
            batch: windows.
            values: from `values`.
        """
        row = batch.history
        ends = (batch.terminated | batch.truncated)[:, row, None]
        following = torch.where(ends, 0.0, values[:, :, row + 1])
        above = batch.rewards[:, :, row] / self.scale + self.discount * following - values[:, :, row]
        return above * batch.transition_mask[:, :, row]

    @torch.no_grad()
    def update(self, batch: EpisodeBatch, values: Tensor) -> None:
        """Moves the mean square of the real advantages, that of the global batch; arguments as `losses`."""
        counts = batch.transition_mask[:, :, batch.history].to(values.dtype).mean(0)
        squares, counts = mean_over_ranks(torch.stack([self.advantages(batch, values).square().mean(0), counts]))
        square = torch.where(counts > 0, squares / counts.clamp_min(1e-12), self._square())
        self.square.mul_(_DECAY).add_((1 - _DECAY) * square)
        self.seen.mul_(_DECAY).add_(1 - _DECAY)

    @torch.no_grad()
    def forward(self, batch: EpisodeBatch, normalizer: Normalizer) -> Tensor:
        """Gives z `[B, N]` of the current row; arguments as `values`."""
        advantages = self.advantages(batch, self.values(batch, normalizer))
        spread = self._square().sqrt()
        return advantages / torch.where(spread > 0, spread, torch.ones_like(spread))

    def _square(self) -> Tensor:
        """The mean square of each agent's advantages so far, `[N]`; 0 before the first update."""
        return self.square / self.seen.clamp_min(1e-6)
