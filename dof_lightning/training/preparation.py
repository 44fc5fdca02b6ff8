"""World, dataset and untrained algorithm of a run; mistakes are refused before data are built if possible."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_modules.behavior.actor_bank import UniformBehavior
from data_modules.source import DatasetSource
from data_modules.storage.manifest import DatasetManifest, read_manifest
from dof_lightning.algorithms.base import Algorithm
from dof_lightning.checkpoints import checkpoint as checkpoints
from dof_lightning.config import checks
from dof_lightning.config import compose as configuration
from dof_lightning.config.effect import check_effect_on
from dof_lightning.envs.base import VectorEnv
from dof_lightning.errors import UserError
from dof_lightning.rollout.run import run_rollout
from dof_lightning.seeding import derive_seed
from dof_lightning.spec import (
    DatasetSpec,
    DatasetStatistics,
    DimensionStatistics,
    EnvSpec,
    check_compatible,
    check_same_world,
)
from dof_lightning.training.run_folder import is_first_process

_DISCOUNT = 0.99  # for the stand-in of a dataset whose source does not specify a discount


def build_world(config: Mapping[str, Any]) -> VectorEnv:
    """Builds the environment of a run and checks that the algorithm fits it.

    Raises:
        UserError: the algorithm does not fit, or the environment cannot be played although the run plays it.
    """
    env = checkpoints.build_env(config, recorded=_recorded(config))
    checks.check_action_kind(config, env.spec)
    check_effect_on(config, env.spec.action_kind)
    if configuration.rolls_out(config):
        env.check_available()
    return env


def play_once(config: Mapping[str, Any], env: VectorEnv) -> None:
    """Plays one episode of uniform actions if the run will play an environment whose code users bring.

    Only playing shows whether rewards and later observations are what they should be.

    Raises:
        UserError: they are not.
    """
    if not (env.is_foreign and configuration.rolls_out(config)):
        return
    try:
        run_rollout(UniformBehavior(env.spec), env, torch.zeros(1, dtype=torch.int64), ("rehearsal",), chunk=1)
    except UserError as error:
        raise UserError(f"{error}; found in an episode of uniform actions before training") from error


def rehearse(
    config: Mapping[str, Any], env: VectorEnv, also: Callable[[DatasetSpec, Algorithm], None] | None = None
) -> None:
    """Builds the algorithm on a stand-in if its dataset has yet to be built, so that it refuses mistakes early.

    Args:
        config: the resolved configuration.
        env: the run's environment.
        also: called with the stand-in and the algorithm, for further checks.

    Raises:
        UserError: a value or part is refused; no data have been made.
    """
    if config["data"]["path"] is not None:
        return
    source: DatasetSource = configuration.build(config["data"]["source"])
    check_same_world(source.name, source.environment.spec, env.spec)
    if source.exists():
        return
    spec = stand_in(source.name, env.spec, getattr(source, "discount", _DISCOUNT))
    with torch.random.fork_rng(devices=[]):
        algorithm = configuration.build_algorithm(config, spec)
        if also is not None:
            also(spec, algorithm)


def stand_in(name: str, environment: EnvSpec, discount: float) -> DatasetSpec:
    """The spec of a dataset that does not exist yet: every dimension and every return is uniform over [-1, 1]."""

    def of(width: int) -> DimensionStatistics:
        shape = (environment.n_agents, width)
        knots = np.linspace(-np.ones(shape), np.ones(shape), 11).astype(np.float32)
        return DimensionStatistics(0 * knots[0], knots[-1], knots[0], knots[-1], knots)

    statistics = DatasetStatistics(
        observations=of(environment.observation_dim),
        actions=of(environment.action_dim) if environment.action_kind == "continuous" else None,
        return_mean=0.0,
        return_std=1.0,
        discounted_return_knots=np.linspace(-1, 1, 11, dtype=np.float32),
    )
    return DatasetSpec(name, environment, discount, recipe={"stand-in": name}, statistics=statistics)


def build_algorithm(config: Mapping[str, Any], env: VectorEnv) -> tuple[DatasetManifest, Algorithm]:
    """Builds the untrained algorithm, and its dataset if that is missing.

    Raises:
        UserError: they do not fit together.
    """
    manifest = read_manifest(locate_dataset(config, env.spec), _key(config))
    if configuration.rolls_out(config) or manifest.spec.environment.is_playable:
        check_compatible(manifest.spec, env.spec)
    torch.manual_seed(derive_seed(config["seed"], "weights"))
    return manifest, configuration.build_algorithm(config, manifest.spec)


def _recorded(config: Mapping[str, Any]) -> EnvSpec | None:
    """The environment spec recorded in an existing dataset, for a configuration that names no environment."""
    path = config["data"]["path"]
    if path is None or not configuration.is_own_data(config):
        return None
    return read_manifest(path, _key(config)).spec.environment


def _key(config: Mapping[str, Any]) -> str:
    """The key that specifies where the dataset is; a user's own `data=<name>` means a folder, too."""
    return f"data.path={config['data']['path']}" if config["data"]["path"] is not None else "data.root"


def locate_dataset(config: Mapping[str, Any], environment: EnvSpec | None = None) -> Path | str:
    """Returns the dataset's location; one of ours is built if it is missing.

    Args:
        config: the resolved configuration.
        environment: the environment of rollouts; a dataset that does not fit it is not built.

    Raises:
        UserError: the dataset does not fit, is damaged, or cannot be built.
    """
    path = config["data"]["path"]
    if path is not None:
        return str(path)
    source: DatasetSource = configuration.build(config["data"]["source"])
    if environment is not None:
        check_same_world(source.name, source.environment.spec, environment)
    return source.ensure(progress=is_first_process())
