"""Conversion of an agent's decisions to the units of its world: from [-1, 1] to a torque or a throttle."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dof_lightning.errors import UserError


class WorldUnits(nn.Module):
    """Maps a decision to an action of the world.

    The formula is that of the environment's adapter, so that both are bit-identical.

    Args:
        units: `low` and `high`, A_i numbers each, for a continuous action; or `start`, the number of the first choice.
        action_dim: A_i.

    Shapes:
        `[..., A_i]` in [-1, 1] (clipped) to `[..., A_i]` float32 within `low` and `high`; or `[...]` indices from 0 to
        indices from `start`

    Raises:
        UserError: `units` has neither, or not for A_i dimensions.
    """

    low: Tensor
    high: Tensor
    least: Tensor
    most: Tensor

    def __init__(self, units: Mapping[str, Any], action_dim: int) -> None:
        super().__init__()
        self.start: int | None = units.get("start")
        if self.start is not None:
            return
        try:
            low, high = (np.asarray(units[name], dtype=np.float64) for name in ("low", "high"))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"agent.action_units={dict(units)} must contain low and high, or start") from error
        if low.shape != (action_dim,) or high.shape != (action_dim,) or not np.isfinite(high - low).all():
            raise UserError(f"agent.action_units={dict(units)} must have {action_dim} finite numbers in low and high")
        # They are decimals in the json; as 32-bit floats they may be outside by a rounding error.
        least, most = low.astype(np.float32), high.astype(np.float32)
        least = np.where(least < low, np.nextafter(least, np.float32(np.inf)), least)
        most = np.where(most > high, np.nextafter(most, np.float32(-np.inf)), most)
        for name, values in {"low": low, "high": high, "least": least, "most": most}.items():
            self.register_buffer(name, torch.from_numpy(values), persistent=False)

    def forward(self, decision: Tensor) -> Tensor:
        """Converts a decision to the world's units."""
        if self.start is not None:
            return decision + self.start
        low, high, least, most = (bound.to(decision.device) for bound in (self.low, self.high, self.least, self.most))
        share = 0.5 * (decision.double().clamp(-1.0, 1.0) + 1.0)
        return (low + share * (high - low)).float().clamp(least, most)
