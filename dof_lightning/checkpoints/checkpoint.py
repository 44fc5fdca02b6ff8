"""The contents of a checkpoint beside its weights, and the algorithm rebuilt from it without its dataset."""

import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dof_lightning import __version__
from dof_lightning.checkpoints.location import find_checkpoint
from dof_lightning.checkpoints.stored_spec import spec_from_plain, spec_to_plain
from dof_lightning.config import compose as configuration
from dof_lightning.config.identity import first_difference
from dof_lightning.config.stored import check_stored
from dof_lightning.config.targets import check_targets
from dof_lightning.digest import load_tensors
from dof_lightning.envs.base import VectorEnv
from dof_lightning.errors import UserError
from dof_lightning.plain import check_plain
from dof_lightning.schema import anything, mapping, optional, real, record, text, whole
from dof_lightning.spec import DatasetSpec, EnvSpec

if TYPE_CHECKING:  # it imports Lightning, which reading a checkpoint does not need
    from dof_lightning.algorithms.base import Algorithm

FORMAT_VERSION = 1
KEY = "dof_lightning"  # the key of our own entries in a checkpoint

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


_WRITTEN_BY = record(
    {"format_version": whole(0), "versions": record({"dof-lightning": text}, others=anything)}, others=anything
)
_OURS = record(
    {
        "behavior": record({"return_mean": optional(real), "return_std": optional(real)}, others=anything),
        "git": optional(text),
        "init_from": optional(record({"typed": text}, others=anything)),
    },
    others=anything,
    optional_keys=("init_from",),
)
_CHECKPOINT = record({"global_step": whole(0), "state_dict": mapping, KEY: _OURS}, others=anything)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been read and checked.

    Attributes:
        path: the file.
        step: number of optimiser steps done.
        config: the resolved configuration that it was trained with.
        spec: the dataset's spec.
        behavior: the behaviour's returns, from the dataset's manifest.
        weights: the algorithm's `state_dict`.
        git: revision of the source tree that trained it; None outside a clone.
        init_from: record of the weights its run was started with (`warm_start`); None for new ones.
    """

    path: Path
    step: int
    config: dict[str, Any]
    spec: DatasetSpec
    behavior: dict[str, Any]
    weights: dict[str, torch.Tensor]
    git: str | None = None
    init_from: dict[str, Any] | None = None


def describe(
    config: Mapping[str, Any],
    spec: DatasetSpec,
    behavior: Mapping[str, Any],
    init_from: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The plain containers and tensors that a checkpoint contains besides Lightning's own content."""
    return {
        "format_version": FORMAT_VERSION,
        "config": dict(config),
        "dataset": spec_to_plain(spec),
        "behavior": dict(behavior),
        "versions": versions(),
        "git": git_revision(),
        **({} if init_from is None else {"init_from": dict(init_from)}),
    }


def versions() -> dict[str, str]:
    """The versions of this project and of the packages that its numbers depend on."""
    return {
        "dof-lightning": __version__,
        "torch": str(torch.__version__),
        "lightning": importlib.metadata.version("lightning"),
        "python": platform.python_version(),
    }


def git_revision() -> str | None:
    """The revision of this source tree, with `+changes` if files differ from it; None outside a clone."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # an installed copy may lie in another project's repository
        return None
    try:
        revision = _git(root, "rev-parse", "HEAD")
        # A results store grows while its runs are trained, which does not change the source.
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
        raise UserError(f"checkpoint={path} cannot be read, it is damaged or from another program; {advice}") from error
    content = raw.get(KEY) if isinstance(raw, dict) else None
    if not isinstance(content, dict):
        raise UserError(f"checkpoint={path} was not written by dof-lightning")
    try:
        return _parse(path, raw, content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__} {error}"
        raise UserError(f"checkpoint={path} is damaged: {reason}; {advice}") from error


def _parse(path: Path, raw: Mapping[str, Any], content: Mapping[str, Any]) -> Checkpoint:
    _WRITTEN_BY("", content)
    if content["format_version"] != FORMAT_VERSION:
        raise UserError(
            f"checkpoint={path} has format {content['format_version']}, this version reads {FORMAT_VERSION}; "
            f"use dof-lightning {content['versions']['dof-lightning']}"
        )
    _CHECKPOINT("", raw)
    check_plain(content["behavior"])
    weights = raw["state_dict"]
    if not all(isinstance(name, str) and isinstance(weight, torch.Tensor) for name, weight in weights.items()):
        raise ValueError("state_dict contains more than tensors by name")
    return Checkpoint(
        path=path,
        step=raw["global_step"],
        config=check_stored(content["config"]),
        spec=spec_from_plain(content["dataset"]),
        behavior=content["behavior"],
        weights=weights,
        git=content["git"],
        init_from=content.get("init_from"),
    )


def check_continues(checkpoint: Checkpoint, config: Mapping[str, Any], spec: DatasetSpec | None = None) -> None:
    """Refuses to resume with another model, another seed or other data.

    Args:
        checkpoint: the checkpoint to resume from.
        config: the resolved configuration.
        spec: the dataset's spec; None before the dataset exists.

    Raises:
        UserError: a key differs; the message names the first one, and the fix.
    """
    difference = first_difference(config, checkpoint.config, MODEL_KEYS)
    if difference is None and spec is not None:
        difference = _difference_of_data(checkpoint.spec, spec)
    # The loader starts at steps x batches per step, in an order that depends on how it is streamed: all must stay the
    # same. So must what a step computes, because the results are filed under the configuration that is typed last.
    data = [("data", key) for key in ("global_batch_size", "memory_mb", "partition", "train_on_padded_tails")]
    trainer = [("trainer", key) for key in ("accumulate_grad_batches", "precision", "overfit_batches")]
    for group, key in (*data, *trainer):
        if difference is None:
            found = first_difference(config[group], checkpoint.config[group], (key,))
            difference = found and f"{group}.{found}"
    if difference is not None:
        raise UserError(
            f"{checkpoint.path} belongs to another run: {difference}; type the values that it was trained with, "
            "or start afresh with another run_dir="
        )


def _difference_of_data(there: DatasetSpec, here: DatasetSpec) -> str | None:
    if there.fingerprint != here.fingerprint:
        return f"dataset is {there.name} ({there.fingerprint}) there, {here.name} ({here.fingerprint}) here"
    if there.shards_sha256 not in (None, here.shards_sha256):
        return f"the files of dataset {here.name} have been rewritten since, with another content"
    return None


def build_algorithm(checkpoint: Checkpoint, config: Mapping[str, Any]) -> "Algorithm":
    """Builds the trained algorithm.

    Args:
        checkpoint: the source of weights and spec.
        config: the checkpoint's configuration, possibly with changed values that do not change the weights' shapes.

    Raises:
        UserError: a class is not trusted, the weights do not fit the configuration, or the settings are missing or
            damaged.
    """
    if nameless := config.get("nameless"):
        raise UserError(
            f"{checkpoint.path} lacks its settings: {nameless}, and train again; its weights serve init_from="
        )
    if not config["trust"]:
        check_targets(config)
    try:
        algorithm: Algorithm = configuration.build_algorithm(config, checkpoint.spec)
    except UserError:
        raise
    except Exception as error:  # damaged settings fail in many ways, inside the constructors of named classes
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"checkpoint={checkpoint.path}: no algorithm can be built from its settings ({reason}); "
            "it may be damaged, or its classes have changed since: choose another checkpoint of its run"
        ) from error
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
                "use the configuration and the version of dof-lightning that it was trained with"
            )
    algorithm.load_state_dict(theirs)


def build_env(config: Mapping[str, Any], recorded: EnvSpec | None = None) -> VectorEnv:
    """Builds the environment that a configuration names.

    Args:
        config: the resolved configuration.
        recorded: the dataset's record of its world, for a configuration that names none (experiment=none).

    Raises:
        UserError: the configuration names none, and no dataset records one.
    """
    made = configuration.build(config["env"])
    if not isinstance(made, VectorEnv):
        if recorded is None:
            raise UserError("no environment is named; type env=<the one that the data came from>")
        made = made(recorded)
    env: VectorEnv = made
    return env
