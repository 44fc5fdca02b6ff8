"""One agent's decision as a `torch.export` program, which needs nothing but torch to run."""

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dof_lightning.deployment.agent import Agent
from dof_lightning.deployment.decision import Decision, own_noise
from dof_lightning.deployment.world_units import WorldUnits
from dof_lightning.errors import UserError

_EXAMPLES = 2  # torch.export treats sizes 0 and 1 as constants


class _Step(nn.Module):
    def __init__(self, decision: Decision, units: WorldUnits | None) -> None:
        super().__init__()
        self.decision, self.units = decision, units

    def forward(self, observation: Tensor, noise: Tensor, legal: Tensor | None = None) -> Tensor:
        action: Tensor
        action, _ = self.decision(observation, None, legal, noise)
        return action if self.units is None else self.units(action)


def trace(agent: Agent) -> ExportedProgram:
    """Traces the decision as a function of tensors, for any number of episodes E.

    Shapes:
        observation `[E, O_i]` float32, noise `[E, *noise_shape]` standard normal, with discrete actions legal
        `[E, A_i]` bool too; result `[E, A_i]` in the world's range, or `[E]` int64 of the world's choices

    Raises:
        UserError: the agent has a memory, so its decision depends on more than this observation.
    """
    policy = agent.decision.policy
    device = next(agent.decision.parameters(), torch.empty(0)).device
    if policy.shared_seeds is not None:
        raise UserError(
            f"format=torch_export: {agent.name} acts on a shared seed, which a program of one decision does not have; "
            "use format=safetensors"
        )
    if policy.initial_carry(1, device) is not None:
        raise UserError(
            f"format=torch_export: {agent.name} has a memory, which a program of one decision does not have; "
            "use format=safetensors"
        )
    inputs = [
        torch.zeros(_EXAMPLES, agent.observation_dim, device=device),
        own_noise(policy, _EXAMPLES, seed=0, agent=agent.index, step=0)[:, 0].contiguous(),
    ]
    if agent.action_kind == "discrete":
        inputs.append(torch.ones(_EXAMPLES, agent.action_dim, dtype=torch.bool, device=device))
    episodes = Dim("episodes", min=1)
    with torch.no_grad():
        return torch.export.export(
            _Step(agent.decision, agent.units),
            tuple(inputs),
            dynamic_shapes=tuple({0: episodes} for _ in inputs),
            strict=False,
        )
