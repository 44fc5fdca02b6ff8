"""Files of single agents, as an export writes them, without a run."""

from pathlib import Path
from typing import Any

from dof_lightning.deployment.agent import FORMAT, FORMAT_VERSION
from dof_lightning.export import write_agent
from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.spec import EnvSpec
from tests.unit.small_spec import small_spec


def about_agent(index: int, spec: EnvSpec | None = None) -> dict[str, Any]:
    """What an agent's record says beside its weights."""
    spec = spec or small_spec().environment
    agent = spec.agents[index]
    about = {
        "name": agent.name,
        "index": index,
        "observation_dim": agent.observation_dim,
        "action_dim": agent.action_dim,
        "action_kind": spec.action_kind,
        "padded_observation_dim": spec.observation_dim,
        "padded_action_dim": spec.action_dim,
    }
    return {"format": FORMAT, "format_version": FORMAT_VERSION, "agent": about, "versions": {"dof-lightning": "0.0.9"}}


def write_agents(folder: Path, policy: DecentralizedPolicy, spec: EnvSpec | None = None) -> list[Path]:
    """The jsons of all agents of a policy."""
    return [write_agent(folder, policy.export(i), about_agent(i, spec)) for i in range(policy.n_agents)]
