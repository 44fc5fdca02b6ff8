"""Base classes of factorisations that mix the agents: heads on the predictions, without an inverse."""

from typing import NoReturn

from torch import Tensor, nn

from dof_lightning.factorization.attention import AgentAttention
from dof_lightning.factorization.base import Factorization
from dof_lightning.settings import Count
from dof_lightning.spec import DatasetSpec


class Mixing(Factorization):
    """Each agent's joint quantity depends on the other agents' parts.

    Gaussian noises joined by a nonlinear mixture would not be Gaussian, and no closed form undoes the mixture, so
    `invertible` is False: f joins the predictions only, while x_tot and the true noises stay side by side [inferred;
    the released code also joins the predictions only].
    """

    invertible = False
    local_execution = False
    satisfies_igd = False

    def split(self, joint: Tensor) -> NoReturn:
        """Raises TypeError: there is no inverse."""
        raise TypeError(f"{type(self).__name__} has no inverse (invertible is False)")

    def local(self, parts: Tensor) -> Tensor:
        """Raises TypeError: no agent has the other agents' parts that it would need."""
        raise TypeError(f"{type(self).__name__} needs all agents' parts (local_execution is False)")


class ResidualAttention(Mixing):
    """Each agent's own part plus attention over all agents; before training it equals the parts side by side.

    Args:
        spec: the dataset's spec; tokens are as wide as the wider of observations and actions.
        embed: width of the attention's embedded tokens.
        heads: number of attention heads, divides `embed`.

    Shapes:
        parts, joint: `[B, N, ..., D]`
    """

    def __init__(self, spec: DatasetSpec, embed: Count = 64, heads: Count = 4) -> None:
        super().__init__()
        self.attention = attention(spec, embed, heads)
        nn.init.zeros_(self.attention.out.weight)
        nn.init.zeros_(self.attention.out.bias)

    def join(self, parts: Tensor, condition: Tensor | None = None) -> Tensor:
        """x_i + Att_i(x_1..x_N)."""
        added: Tensor = self.attention(parts)
        return parts + added


def attention(spec: DatasetSpec, embed: Count, heads: Count) -> AgentAttention:
    """Attention over the agents' observations or actions, whichever of the two diffuse."""
    return AgentAttention(spec.n_agents, max(spec.observation_dim, spec.action_dim), embed, heads)
