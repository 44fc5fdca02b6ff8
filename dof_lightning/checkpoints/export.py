"""`dof export`: writes one pair of files per agent from a checkpoint.

<output>/
    <agent>.json           its description; `dof_lightning.deployment.load_agent` takes this path
    <agent>.safetensors    its weights, and no other agent's
    <agent>.pt2            with format=torch_export: its decision as a program
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from dof_lightning.agent_names import check_agent_names, file_names
from dof_lightning.checkpoints.checkpoint import Checkpoint, git_revision, versions
from dof_lightning.checkpoints.overrides import build_acting, override
from dof_lightning.deployment.agent import Agent, load_agent
from dof_lightning.deployment.program import trace
from dof_lightning.deployment.record import FORMAT, FORMAT_VERSION, write_record
from dof_lightning.deployment.structure import describe
from dof_lightning.errors import UserError
from dof_lightning.files import building, sha256
from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.seeding import make_generator
from dof_lightning.spec import EnvSpec

FORMATS = ("safetensors", "torch_export")
_NOT_READ = ("env", "rollout", "seed")


def export_agents(
    checkpoint: Checkpoint, tails: Sequence[str] = (), output: Path | None = None, file_format: str = "safetensors"
) -> Path:
    """Writes the agents of a checkpoint, all or none: into a hidden folder that is renamed when it is complete.

    Args:
        checkpoint: the checkpoint, whose averaged (EMA) weights act.
        tails: `key=value` changes of keys that do not change the weights: sampler, candidates.
        output: a folder that does not exist or is empty; None means `<checkpoint>_agents` beside the checkpoint.
        file_format: `safetensors`, or `torch_export` for a program beside it.

    Returns:
        the folder.

    Raises:
        UserError: a tail names a key that an export does not read, the folder is not empty or cannot be written, or
            agents share a name.
    """
    if file_format not in FORMATS:
        raise UserError(f"format={file_format} is unknown; choose one of {', '.join(FORMATS)}")
    config = _changed(checkpoint, tails)
    output = checkpoint.path.with_name(f"{checkpoint.path.stem}_agents") if output is None else output
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise UserError(f"output={output} exists already; remove it or choose another output=")
    environment = checkpoint.spec.environment
    names = [agent.name for agent in environment.agents]
    check_agent_names(f"env={environment.name}", names)  # those of older data may be the same
    policy = build_acting(checkpoint, config)
    if policy.observes_rewards:
        raise UserError(
            "algorithm.return_update=reward: an exported agent receives no rewards; export with "
            "algorithm.return_update=time or none"
        )
    about = _about(checkpoint, config, tails)
    try:
        with building(output, f"{os.getpid()}.exporting") as draft:
            for index in range(policy.n_agents):
                of_one = about | {"agent": about_agent(environment, index)}
                path = write_agent(draft, policy.export(index), of_one, file_names(names)[index])
                if file_format == "torch_export":
                    _write_program(load_agent(path), path)
    except OSError as error:
        raise UserError(f"output={output} cannot be written: {error.strerror}") from error
    return output


def _changed(checkpoint: Checkpoint, tails: Sequence[str]) -> dict[str, Any]:
    for tail in tails:
        key = tail.partition("=")[0]
        if key.split(".")[0] in _NOT_READ:
            raise UserError(f"dof export does not read `{key}`; it reads sampler, sampler.*, algorithm.* and trust")
    return override(checkpoint.config, tails, command="dof export")


def is_change_of_values(tail: str) -> bool:
    """Whether a tail that an exported agent records is one that `dof export` reads and that names no code.

    Anyone can write a record: it must neither choose a world or a class, nor vouch for itself.
    """
    key, equals, _ = tail.partition("=")
    names = key.split(".")
    named = names[0] in (*_NOT_READ, "trust") or any(name == "factory" or name.startswith("_") for name in names)
    return bool(equals) and not named


def _about(checkpoint: Checkpoint, config: Mapping[str, Any], tails: Sequence[str]) -> dict[str, Any]:
    """The part of the json that is the same for all agents."""
    dataset = checkpoint.spec
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "algorithm": config["choices"]["algorithm"],
        **{key: config["algorithm"].get(key) for key in ("sampler", "schedule", "observation_normalizer")},
        "checkpoint": {"step": checkpoint.step, "sha256": sha256(checkpoint.path)},
        "changes": [tail for tail in tails if not tail.startswith("trust=")],
        "dataset": {"name": dataset.name, "fingerprint": dataset.fingerprint},
        "environment": {"name": dataset.environment.name, "fingerprint": dataset.environment.fingerprint},
        "versions": versions(),
        "git": git_revision(),
    }


def about_agent(spec: EnvSpec, index: int) -> dict[str, Any]:
    """The part of the json that describes one agent of a team."""
    agent, units = spec.agents[index], spec.action_units(index)
    return {
        "name": agent.name,
        "index": index,
        "observation_dim": agent.observation_dim,
        "action_dim": agent.action_dim,
        "action_kind": spec.action_kind,
        "padded_observation_dim": spec.observation_dim,
        "padded_action_dim": spec.action_dim,
        **({} if units is None else {"action_units": dict(units)}),
    }


def write_agent(
    folder: Path, policy: DecentralizedPolicy, about: Mapping[str, Any], file_name: str | None = None
) -> Path:
    """Writes the two files of one agent, named after it if no name is given; returns the json's path."""
    stem: str = about["agent"]["name"] if file_name is None else file_name
    structure, tensors = describe(policy)
    weights = safetensors.torch.save(tensors)
    noise_shape = policy.draw_noise(1, make_generator(0)).shape[2:]
    record = {
        **about,
        "noise_shape": list(noise_shape),
        **({} if policy.shared_seeds is None else {"shared_seeds": policy.shared_seeds}),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "structure": structure,
    }
    path = folder / f"{stem}.json"
    path.with_name(f"{stem}.safetensors").write_bytes(weights)
    write_record(path, record)
    return path


def _write_program(agent: Agent, record: Path) -> None:
    program = record.with_suffix(".pt2")
    torch.export.save(trace(agent), program)
    write_record(record, {**agent.record, "program_sha256": sha256(program)})
