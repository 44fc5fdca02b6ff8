"""Datasets that are built on first use: behaviour policies are rolled out in one of our environments."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from data_modules.behavior.base import Behavior
from data_modules.source import DatasetSource
from data_modules.storage.arrays import DataFault, Episodes
from data_modules.storage.manifest import FORMAT_VERSION, read_manifest
from data_modules.storage.store import Description, write_dataset
from data_modules.tools.verify import verify_dataset
from dof_lightning.errors import UserError
from dof_lightning.rollout.recorder import Rollout
from dof_lightning.rollout.run import Spectator, run_rollout
from dof_lightning.seeding import derive_seed
from dof_lightning.spec import fingerprint

BLOCK = 2_000

_OPTIONAL = ("state", "legal", "alive", "extra_observations", "extra_actions", "extra_rewards")


@dataclass(frozen=True)
class CollectedDataset(DatasetSource):
    """A dataset that this project collects, identified by its recipe.

    Args:
        name, environment: see `DatasetSource`.
        behavior: the behaviour policy.
        episodes: number of episodes.
        seed: seed of environments and exploration noise.
        discount: gamma of the stored returns.
        root: folder of all datasets.

    Raises:
        UserError: fewer than one episode is requested.
    """

    behavior: Behavior
    episodes: int
    seed: int
    discount: float
    root: str

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise UserError(f"data.episodes={self.episodes} must be at least 1")

    @property
    def recipe(self) -> dict[str, Any]:
        """Everything that changes the data's meaning."""
        return {
            "format_version": FORMAT_VERSION,
            "environment": dict(self.environment.spec.recipe),
            "behavior": self.behavior.identity(self.environment.spec),
            "seed": self.seed,
            "episodes": self.episodes,
            "discount": self.discount,
        }

    @property
    def path(self) -> Path:
        """The dataset's folder, whose name carries the recipe's fingerprint."""
        return Path(self.root) / f"{self.name}-{self.episodes}-{fingerprint(self.recipe)[:8]}"

    def ensure(self, progress: bool = True) -> Path:
        """See `DatasetSource.ensure`.

        Raises:
            UserError: the folder is damaged, the disk is full, or the episodes cannot be stored.
        """
        if self.exists():
            read_manifest(self.path)
            return self.path
        try:
            self._write(progress)
        except DataFault as error:
            raise UserError(
                f"{self.name}: what {self.behavior.name!r} collects in {self.environment.spec.name} cannot be stored: "
                f"{error}; correct the environment or the policy"
            ) from error
        for warning in verify_dataset(self.path, progress=progress).warnings:
            Console(stderr=True).print(f"warning: {warning}", highlight=False, markup=False, soft_wrap=True)
        return self.path

    def _write(self, progress: bool) -> None:
        with Progress(console=Console(stderr=True), disable=not progress) as bars:
            bar = bars.add_task(f"Collecting {self.name}", total=self.episodes)

            behavior = self.behavior.identity(self.environment.spec)
            write_dataset(
                self.path,
                Description(
                    name=self.name,
                    environment=self.environment.spec,
                    recipe=self.recipe,
                    behavior=behavior,
                    discount=self.discount,
                    made_by_recipe=True,
                ),
                blocks=self._collect(behavior, lambda episodes: bars.advance(bar, episodes)),
                n_episodes=self.episodes,
                seed=self.seed,
            )

    def _collect(self, description: dict[str, Any], progress: Callable[[int], None]) -> Iterator[Episodes]:
        """Collects blocks of episodes; the policies take turns in equal shares of the whole set.

        If episodes can be won, the `win_rate` of all episodes is added to `description` after the last block.
        """
        won: list[Tensor] = []
        environment, who = self.environment, self.behavior.name
        policies = self.behavior.policies(environment.spec)
        borders = np.linspace(0, self.episodes, len(policies) + 1).astype(int).tolist()
        for index, policy in enumerate(policies):
            for first in range(borders[index], borders[index + 1], BLOCK):
                ids = np.arange(first, min(first + BLOCK, borders[index + 1]))
                seeds = torch.from_numpy(ids) + (derive_seed(self.seed, "collect", who) >> 2)
                noise_key = (self.seed, "collect", who, first)
                chunk = environment.episodes_at_once
                watching = Spectator(hears=progress)
                rollout = run_rollout(
                    policy, environment, seeds, noise_key, chunk=chunk, record=True, spectator=watching
                )
                won += [] if rollout.won is None else [rollout.won]
                yield as_episodes(rollout, ids)
        if won:
            description["win_rate"] = float(torch.cat(won).double().mean())


def as_episodes(rollout: Rollout, ids: np.ndarray) -> Episodes:
    """Converts a recorded rollout (`record=True`) to a block of a dataset; `ids` `[n]` are the episodes' ids."""
    terminated = recorded(rollout.terminated).gather(1, rollout.lengths[:, None] - 1)
    optional = {name: getattr(rollout, name) for name in _OPTIONAL}
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
    """Returns an array that a recorded rollout must have."""
    if tensor is None:
        raise ValueError("the rollout was made without record=True")
    return tensor
