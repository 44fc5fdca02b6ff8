"""Datasets that build themselves: behaviour policies rolled out in one of our environments."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from data_modules.arrays import Episodes
from data_modules.behavior.actors import GaussianBehavior, UniformBehavior
from data_modules.behavior.snapshots import load_actors, snapshot_names, weights_sha256
from data_modules.manifest import FORMAT_VERSION, read_manifest
from data_modules.store import write_dataset
from data_modules.verify import verify_dataset
from dof_lightning.envs.base import VectorEnv
from dof_lightning.envs.particle import ParticleEnv
from dof_lightning.errors import UserError
from dof_lightning.policy import DecentralizedPolicy
from dof_lightning.recording import Rollout
from dof_lightning.rollout import run_rollout
from dof_lightning.seeding import derive_seed
from dof_lightning.spec import fingerprint

Quality = Literal["expert", "medium", "medium_replay", "random"]
Task = Literal["spread"]

EXPLORATION_NOISE = 0.1
BLOCK = 2_000
CHUNK = 500


@dataclass(frozen=True)
class CollectedDataset:
    """A dataset of our own making, named by its recipe.

    * `expert`, `medium`: one snapshot of the online training, with the Gaussian exploration noise it trained with.
    * `medium_replay`: the snapshots on the way to medium in equal shares, as a replay buffer would hold them.
    * `random`: uniform actions.

    Args:
        name: e.g. `mpe_spread_expert`.
        task: of the particle world.
        quality: who acts, see above.
        episodes: how many.
        seed: of environments and exploration noise.
        discount: gamma of the returns stored.
        root: folder of all datasets.

    Raises:
        UserError: unknown quality, or fewer than one episode.
    """

    name: str
    task: Task
    quality: Quality
    episodes: int
    seed: int
    discount: float
    root: str

    def __post_init__(self) -> None:
        if self.quality not in get_args(Quality):
            raise UserError(f"data.source.quality={self.quality!r} is not one of {', '.join(get_args(Quality))}")
        if self.episodes < 1:
            raise UserError(f"data.episodes={self.episodes} must be at least 1")

    @property
    def recipe(self) -> dict[str, Any]:
        """Everything that changes the data's meaning."""
        return {
            "format_version": FORMAT_VERSION,
            "environment": dict(self._environment().spec.recipe),
            "behavior": self._behavior_identity(),
            "seed": self.seed,
            "episodes": self.episodes,
            "discount": self.discount,
        }

    @property
    def path(self) -> Path:
        """The dataset's folder, whose name carries the recipe's fingerprint."""
        return Path(self.root) / f"{self.name}-{self.episodes}-{fingerprint(self.recipe)[:8]}"

    def exists(self) -> bool:
        """Whether it is on disk, complete."""
        return (self.path / "dataset.json").exists()

    def ensure(self, progress: bool = True) -> Path:
        """Builds and verifies the dataset unless it is there.

        Args:
            progress: show progress bars.

        Returns:
            The dataset's folder.

        Raises:
            UserError: the folder is damaged, or the disk is full.
        """
        if self.exists():
            read_manifest(self.path)
            return self.path
        environment = self._environment()
        with Progress(console=Console(stderr=True), disable=not progress) as bars:
            bar = bars.add_task(f"Collecting {self.name}", total=self.episodes)

            def blocks() -> Iterator[Episodes]:
                for block in self._collect(environment):
                    bars.advance(bar, block.n_episodes)
                    yield block

            write_dataset(
                self.path,
                name=self.name,
                environment=environment.spec,
                recipe=self.recipe,
                behavior=self._behavior_identity(),
                blocks=blocks(),
                n_episodes=self.episodes,
                seed=self.seed,
                discount=self.discount,
            )
        verify_dataset(self.path, progress=progress)
        return self.path

    def _environment(self) -> VectorEnv:
        return ParticleEnv(task=self.task)

    def _snapshots(self) -> list[str]:
        """Which shipped snapshots act; none for the random policy."""
        if self.quality == "random":
            return []
        if self.quality == "medium_replay":
            return [name for name in snapshot_names(self._environment().spec.name) if name != "expert"]
        return [self.quality]

    def _behavior_identity(self) -> dict[str, Any]:
        snapshots = self._snapshots()
        if not snapshots:
            return {"name": self.quality, "policy": "uniform in [-1, 1]"}
        return {
            "name": self.quality,
            "policy": "MATD3",
            "snapshots": snapshots,
            "weights_sha256": weights_sha256(self._environment().spec.name),
            "exploration_noise": EXPLORATION_NOISE,
        }

    def _policies(self, environment: VectorEnv) -> list[DecentralizedPolicy]:
        spec = environment.spec
        actors = (load_actors(spec, snapshot) for snapshot in self._snapshots())
        policies: list[DecentralizedPolicy] = [
            GaussianBehavior(bank, spec.n_agents, spec.action_dim, EXPLORATION_NOISE) for bank in actors
        ]
        return policies or [UniformBehavior(spec)]

    def _collect(self, environment: VectorEnv) -> Iterator[Episodes]:
        """Blocks of episodes, the policies taking turns in equal shares of the whole set."""
        policies = self._policies(environment)
        borders = np.linspace(0, self.episodes, len(policies) + 1).astype(int).tolist()
        for index, policy in enumerate(policies):
            for first in range(borders[index], borders[index + 1], BLOCK):
                ids = np.arange(first, min(first + BLOCK, borders[index + 1]))
                seeds = torch.from_numpy(ids) + (derive_seed(self.seed, "collect", self.quality) >> 2)
                rollout = run_rollout(
                    policy, environment, seeds, (self.seed, "collect", self.quality, first), chunk=CHUNK, record=True
                )
                yield as_episodes(rollout, ids)


def as_episodes(rollout: Rollout, ids: np.ndarray) -> Episodes:
    """A recorded rollout as a block of a dataset.

    Args:
        rollout: from `run_rollout(record=True)`.
        ids: `[n]`, the episodes' ids.
    """
    terminated = recorded(rollout.terminated).gather(1, rollout.lengths[:, None] - 1)
    optional = {name: getattr(rollout, name) for name in ("state", "legal", "alive")}
    return Episodes(
        observations=recorded(rollout.observations).numpy(),
        actions=recorded(rollout.actions).numpy(),
        rewards=recorded(rollout.rewards).numpy(),
        terminated=terminated.squeeze(1).numpy(),
        length=rollout.lengths.numpy().astype(np.int32),
        episode_id=ids.astype(np.int64),
        **{name: None if tensor is None else tensor.numpy() for name, tensor in optional.items()},
    )


def recorded(tensor: Tensor | None) -> Tensor:
    """An array that a recorded rollout must have."""
    if tensor is None:
        raise ValueError("the rollout was made without record=True")
    return tensor
