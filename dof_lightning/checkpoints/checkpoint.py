"""What a checkpoint holds beside weights, and how an algorithm is made from it without its dataset."""

import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dof_lightning import __version__
from dof_lightning.checkpoints.location import find_checkpoint
from dof_lightning.config.compose import build
from dof_lightning.config.identity import first_difference
from dof_lightning.config.stored import check_stored
from dof_lightning.config.targets import check_targets
from dof_lightning.digest import load_tensors
from dof_lightning.envs.base import VectorEnv
from dof_lightning.errors import UserError
from dof_lightning.plain import NUMBER, NUMBER_OR_NONE, TEXT_OR_NONE, check_kinds, check_plain
from dof_lightning.spec import DatasetSpec, DatasetStatistics, DimensionStatistics, EnvSpec

if TYPE_CHECKING:  # it imports Lightning, which reading a checkpoint does not need
    from dof_lightning.algorithms.base import Algorithm

FORMAT_VERSION = 1
KEY = "dof_lightning"  # where a checkpoint keeps what is not Lightning's

MODEL_KEYS = (
    "seed",
    "algorithm",
    "denoiser",
    "noise_factorization",
    "data_factorization",
    "value_mixer",
    "schedule",
    "sampler",
)


_KINDS: Mapping[str, type | tuple[type, ...]] = {
    "global_step": int,
    "state_dict": dict,
    f"{KEY}.behavior.return_mean": NUMBER_OR_NONE,
    f"{KEY}.git": TEXT_OR_NONE,
}
_SPEC_KINDS: Mapping[str, type | tuple[type, ...]] = {
    **{"name": str, "discount": NUMBER, "recipe": dict, "statistics": dict},
    **{"environment.name": str, "environment.agents": list, "environment.recipe": dict},
    **{"environment.action_kind": str, "environment.horizon": int, "environment.state_dim": int},
    **{"statistics.return_mean": NUMBER, "statistics.return_std": NUMBER},
}
_AGENT_KINDS: Mapping[str, type] = {"name": str, "observation_dim": int, "action_dim": int}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been read and checked.

    Attributes:
        path: where it lies.
        step: optimiser steps done.
        config: the resolved configuration it was trained with.
        spec: the dataset's spec.
        behavior: the behaviour's returns, from the dataset's manifest.
        weights: the algorithm's `state_dict`.
        git: revision of the source tree that trained it; None outside a clone.
    """

    path: Path
    step: int
    config: dict[str, Any]
    spec: DatasetSpec
    behavior: dict[str, Any]
    weights: dict[str, torch.Tensor]
    git: str | None = None


def describe(config: Mapping[str, Any], spec: DatasetSpec, behavior: Mapping[str, Any]) -> dict[str, Any]:
    """Plain containers and tensors: what a checkpoint carries beside Lightning's own content."""
    return {
        "format_version": FORMAT_VERSION,
        "config": dict(config),
        "dataset": spec_to_plain(spec),
        "behavior": dict(behavior),
        "versions": versions(),
        "git": git_revision(),
    }


def versions() -> dict[str, str]:
    """Of this project and what its numbers depend on."""
    return {
        "dof-lightning": __version__,
        "torch": str(torch.__version__),
        "lightning": importlib.metadata.version("lightning"),
        "python": platform.python_version(),
    }


def git_revision() -> str | None:
    """The revision of this source tree, with `+changes` where files differ from it; None outside a clone."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # an installed copy may lie in another project's repository
        return None
    try:
        revision = _git(root, "rev-parse", "HEAD")
        # A results store grows while its runs go on: that is no other source.
        paths = ("--", ".", ":(exclude)benchmarks/results")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", *paths)
    except (OSError, subprocess.SubprocessError):
        return None
    return revision + ("+changes" if changed else "")


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def read(path: Path) -> Checkpoint:
    """Reads a checkpoint without running any of its content.

    Raises:
        UserError: it is missing, damaged, or was not written by this project.
    """
    path = find_checkpoint(path)
    advice = "choose another, such as its run's best.ckpt or last.ckpt"
    try:
        raw = load_tensors(path)
    except Exception as error:  # a damaged file fails in many ways, inside zip, pickle and torch
        raise UserError(f"checkpoint={path} cannot be read, it is damaged or of another program; {advice}") from error
    content = raw.get(KEY) if isinstance(raw, dict) else None
    if not isinstance(content, dict):
        raise UserError(f"checkpoint={path} was not written by dof-lightning")
    try:
        return _parse(path, raw, content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__} {error}"
        raise UserError(f"checkpoint={path} is damaged: {reason}; {advice}") from error


def _parse(path: Path, raw: Mapping[str, Any], content: Mapping[str, Any]) -> Checkpoint:
    check_kinds(content, {"format_version": int, "versions.dof-lightning": str})
    if content["format_version"] != FORMAT_VERSION:
        raise UserError(
            f"checkpoint={path} has format {content['format_version']}, this version reads {FORMAT_VERSION}; "
            f"use dof-lightning {content['versions']['dof-lightning']}"
        )
    check_kinds(raw, _KINDS)
    check_plain(content["behavior"])
    weights = raw["state_dict"]
    if not all(isinstance(name, str) and isinstance(weight, torch.Tensor) for name, weight in weights.items()):
        raise ValueError("state_dict holds more than tensors by name")
    return Checkpoint(
        path=path,
        step=raw["global_step"],
        config=check_stored(content["config"]),
        spec=spec_from_plain(content["dataset"]),
        behavior=content["behavior"],
        weights=weights,
        git=content["git"],
    )


def check_continues(checkpoint: Checkpoint, config: Mapping[str, Any], spec: DatasetSpec | None = None) -> None:
    """Refuses to go on with another model, another seed or other data.

    Args:
        checkpoint: what is gone on from.
        config: the resolved configuration.
        spec: the dataset's; None before it is there.

    Raises:
        UserError: names the first key that differs, and the fix.
    """
    difference = first_difference(config, checkpoint.config, MODEL_KEYS)
    if difference is None and spec is not None and checkpoint.spec.fingerprint != spec.fingerprint:
        there, here = checkpoint.spec, spec
        difference = f"dataset is {there.name} ({there.fingerprint}) there, {here.name} ({here.fingerprint}) here"
    # The loader starts at steps x batches a step, in an order that depends on how it is streamed: all must stay.
    data = [("data", key) for key in ("global_batch_size", "memory_mb", "partition")]
    for group, key in (*data, ("trainer", "accumulate_grad_batches")):
        if difference is None:
            found = first_difference(config[group], checkpoint.config[group], (key,))
            difference = found and f"{group}.{found}"
    if difference is not None:
        raise UserError(
            f"{checkpoint.path} belongs to another run: {difference}; type what it was trained with, "
            "or start afresh with another run_dir="
        )


def build_algorithm(checkpoint: Checkpoint, config: Mapping[str, Any]) -> "Algorithm":
    """The trained algorithm.

    Args:
        checkpoint: where weights and spec come from.
        config: the checkpoint's own, or with values that leave the weights' shapes alone changed.

    Raises:
        UserError: a class is not trusted, or the weights do not fit the configuration.
    """
    if not config["trust"]:
        check_targets(config)
    algorithm: Algorithm = build(config["algorithm"])(spec=checkpoint.spec)
    load_weights(algorithm, checkpoint)
    return algorithm


def load_weights(algorithm: "Algorithm", checkpoint: Checkpoint) -> None:
    """Loads all weights.

    Raises:
        UserError: a name or shape differs; the message names the first.
    """
    ours, theirs = algorithm.state_dict(), checkpoint.weights
    for name in [*theirs, *ours]:
        shapes = [list(state[name].shape) if name in state else "missing" for state in (theirs, ours)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{checkpoint.path} does not fit: {name} is {shapes[0]} in the checkpoint, {shapes[1]} in the model; "
                "use the configuration it was trained with"
            )
    algorithm.load_state_dict(theirs)


def build_env(config: Mapping[str, Any], recorded: EnvSpec | None = None) -> VectorEnv:
    """The environment a configuration names.

    Args:
        config: the resolved configuration.
        recorded: what the dataset says of its world, for a configuration that names none (experiment=none).

    Raises:
        UserError: it names none, and there is no dataset to ask.
    """
    made = build(config["env"])
    if not isinstance(made, VectorEnv):
        if recorded is None:
            raise UserError("there is no world to play in; type env=<the one that the data came from>")
        made = made(recorded)
    env: VectorEnv = made
    return env


def spec_to_plain(spec: DatasetSpec) -> dict[str, Any]:
    """Inverse of `spec_from_plain`; statistics become tensors."""
    plain = asdict(spec) | {"recipe": dict(spec.recipe), "environment": spec.environment.to_dict()}
    return _to_plain(plain)


def spec_from_plain(plain: Mapping[str, Any]) -> DatasetSpec:
    """A spec with numpy statistics from plain containers and tensors.

    Raises:
        ValueError: a value is missing, of another kind, or does not fit the others.
    """
    check_kinds(plain, _SPEC_KINDS, "dataset: ")
    check_plain([plain["recipe"], plain["environment"]])
    for agent in plain["environment"]["agents"]:
        check_kinds(agent, _AGENT_KINDS, "dataset: an agent's ")
    statistics = dict(plain["statistics"])
    for name in ("observations", "actions"):
        if name == "observations" or statistics[name] is not None:  # discrete actions have none
            statistics[name] = DimensionStatistics(**{k: v.numpy() for k, v in statistics[name].items()})
    statistics["discounted_return_knots"] = statistics["discounted_return_knots"].numpy()
    spec = DatasetSpec(
        **{
            **plain,
            "environment": EnvSpec.from_dict(plain["environment"]),
            "statistics": DatasetStatistics(**statistics),
        }
    )
    _check_sizes(spec)
    return spec


def _check_sizes(spec: DatasetSpec) -> None:
    environment, statistics = spec.environment, spec.statistics
    if environment.action_kind not in ("continuous", "discrete"):
        raise ValueError(f"dataset: environment.action_kind must be continuous or discrete, got {spec.action_kind!r}")
    sizes = [size for agent in environment.agents for size in (agent.observation_dim, agent.action_dim)]
    if not sizes or min(*sizes, spec.horizon) < 1 or spec.state_dim < 0:
        raise ValueError("dataset: agents, their dimensions and the horizon must be at least 1")
    if (statistics.actions is None) != (spec.action_kind == "discrete"):
        raise ValueError(f"dataset: statistics.actions do not fit {spec.action_kind} actions")
    for name, width in (("observations", spec.observation_dim), ("actions", spec.action_dim)):
        of_dimensions: DimensionStatistics | None = getattr(statistics, name)
        arrays = {} if of_dimensions is None else vars(of_dimensions)
        for field, array in arrays.items():
            if array.shape[-2:] != (spec.n_agents, width) or array.ndim != 2 + (field == "knots"):
                raise ValueError(f"dataset: statistics.{name}.{field} has shape {list(array.shape)}")


def _to_plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.array(value))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: _to_plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_to_plain(item) for item in value]
    return value
