"""Datasets made of other datasets: several merged into one, or some episodes of one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from data_modules.storage.arrays import DataFault, Episodes
from data_modules.storage.contents import digests_of
from data_modules.storage.dataset_statistics import episode_returns
from data_modules.storage.manifest import FORMAT_VERSION, DatasetManifest, read_episodes, read_manifest
from data_modules.storage.store import Description, write_dataset
from dof_lightning.errors import UserError
from dof_lightning.seeding import counter_uniform, derive_seed
from dof_lightning.spec import check_same_world


@dataclass(frozen=True)
class EpisodeIndex:
    """A dataset's episodes in the order they are stored.

    Attributes:
        episode_id: `[n]` int64.
        returns: `[n]` float64, undiscounted, mean over agents.
    """

    episode_id: np.ndarray
    returns: np.ndarray


def read_index(manifest: DatasetManifest) -> EpisodeIndex:
    """Reads ids and returns; one sample at a time is held in memory.

    Raises:
        UserError: a shard is damaged.
    """
    ids, returns = [], []
    for rows in read_episodes(manifest):
        returns.append(episode_returns(rows, discount=1.0))
        ids.append(rows.episode_id)
    return EpisodeIndex(np.concatenate(ids), np.concatenate(returns))


def merge(paths: Sequence[str], root: Path, name: str, seed: int = 0) -> Path:
    """Merges several datasets of one environment into one; returns its folder.

    If the parts' ids are all different, episodes keep them, so that the same ones are held out. Otherwise
    every part but the first gets new ids, which follow those before it. Parts that share episodes are refused.

    Args:
        paths: folders or addresses, at least two.
        root: folder of all datasets; the result is `root/name`.
        name: the result's name.
        seed: seed of the order in which the episodes are stored.

    Raises:
        UserError: the parts are of different environments or contain different arrays, or one is damaged.
    """
    if len(paths) < 2:
        raise UserError(f"datasets={list(paths)} names fewer than two datasets; write datasets=[first,second]")
    manifests = [read_manifest(path) for path in paths]
    first = manifests[0]
    for other in manifests[1:]:
        check_same_world(other.spec.name, other.spec.environment, first.spec.environment)
        _check_arrays(first, other)
    parts = [manifest.spec.fingerprint for manifest in manifests]
    if len(set(parts)) < len(parts):
        raise UserError(f"datasets={list(paths)}: the same dataset is named twice")
    ids = [read_index(manifest).episode_id for manifest in manifests]
    if len(np.unique(np.concatenate(ids))) < sum(map(len, ids)):
        _check_unrelated(manifests)
        ids = _renumbered(ids)
    _check_distinct(manifests)
    keep = [np.ones(len(each), dtype=bool) for each in ids]
    recipe = {"merged": parts, "seed": seed}
    return _write(root, name, manifests, keep, ids, seed, recipe, _merged_behavior(manifests))


def subsample(
    path: str,
    root: Path,
    name: str,
    quantiles: Sequence[float] = (0.0, 1.0),
    episodes: int | None = None,
    seed: int = 0,
) -> Path:
    """Writes some episodes of a dataset as a dataset; returns its folder.

    They are those in a range of quantiles of the return, or so many of those at random. Episodes are ranked by return
    (then by id), so that the ranges 0 to q and q to 1 share no episode and miss none. They keep their
    ids.

    Args:
        path: folder or address.
        root: folder of all datasets; the result is `root/name`.
        name: the result's name.
        quantiles: lowest and highest quantile, between 0 and 1.
        episodes: their number; None means all in that range.
        seed: seed of the choice, and of the order in which the episodes are stored.

    Raises:
        UserError: the range is invalid, or contains fewer episodes than requested.
    """
    low, high = _check_quantiles(quantiles)
    manifest = read_manifest(path)
    index = read_index(manifest)
    n = len(index.returns)
    ranked = np.lexsort((index.episode_id, index.returns))
    chosen = ranked[round(low * n) : round(high * n)]
    wanted = len(chosen) if episodes is None else episodes
    if not 0 < wanted <= len(chosen):
        raise UserError(
            f"{manifest.location}: {len(chosen)} of {n} episodes lie in quantiles=[{low:g},{high:g}], requested are "
            f"{wanted}; choose another range or episodes="
        )
    numbers = torch.from_numpy(index.episode_id[chosen]) + (derive_seed(seed, "subsample") >> 2)
    drawn = counter_uniform(numbers, 1)[:, 0].numpy()
    keep = np.zeros(n, dtype=bool)
    keep[chosen[np.argsort(drawn, kind="stable")[:wanted]]] = True
    recipe = {"subsampled": manifest.spec.fingerprint, "quantiles": [low, high], "episodes": episodes, "seed": seed}
    behavior = {**_without_returns(manifest), "subsampled_from": manifest.spec.name, "quantiles": [low, high]}
    return _write(root, name, [manifest], [keep], [index.episode_id], seed, recipe, behavior)


def _write(
    root: Path,
    name: str,
    manifests: Sequence[DatasetManifest],
    keep: Sequence[np.ndarray],
    ids: Sequence[np.ndarray],
    seed: int,
    recipe: Mapping[str, Any],
    behavior: Mapping[str, Any],
) -> Path:
    spec, n_episodes = manifests[0].spec, int(sum(map(np.count_nonzero, keep)))
    has_state = "state" in manifests[0].members
    environment = spec.environment if has_state else replace(spec.environment, state_dim=0)
    path = root / name
    with Progress(console=Console(stderr=True)) as bars:
        bar = bars.add_task(f"writing {name}", total=n_episodes)

        def blocks() -> Iterator[Episodes]:
            for manifest, kept, new_ids in zip(manifests, keep, ids, strict=True):
                for block in _selected(manifest, kept, new_ids):
                    yield block
                    bars.advance(bar, block.n_episodes)

        description = Description(
            name=name,
            environment=environment,
            recipe={"format_version": FORMAT_VERSION, "environment": dict(spec.environment.recipe), **recipe},
            behavior=behavior,
            discount=spec.discount,
        )
        try:
            write_dataset(path, description, blocks=blocks(), n_episodes=n_episodes, seed=seed)
        except DataFault as error:
            raise UserError(f"{path}: {error}") from None
    return path


def _selected(manifest: DatasetManifest, keep: np.ndarray, ids: np.ndarray) -> Iterator[Episodes]:
    """Yields the kept episodes with their new ids, a sample at a time."""
    first = 0
    for rows in read_episodes(manifest):
        mine = slice(first, first + rows.n_episodes)
        first = mine.stop
        rows.episode_id = ids[mine]
        if keep[mine].any():
            yield rows.select(np.flatnonzero(keep[mine])).padded()


def _check_unrelated(manifests: Sequence[DatasetManifest]) -> None:
    """Refuses datasets that share episodes: under new ids, held-out ones would be trained on."""
    seen: set[str] = set()
    for manifest in manifests:
        origins = {manifest.spec.fingerprint, str(manifest.spec.recipe.get("subsampled", ""))} - {""}
        origins |= set(manifest.spec.recipe.get("merged", ()))
        if origins & seen:
            raise UserError(
                f"{manifest.location} shares episodes with another of the datasets: one was cut from the other, or "
                "both from the same; choose quantiles= that do not overlap"
            )
        seen |= origins


def _check_distinct(manifests: Sequence[DatasetManifest]) -> None:
    """Refuses datasets that contain an equal episode, whatever their recipes tell of their origin.

    If a dataset repeats episodes by itself, as those of one-step games do, equal ones prove nothing.
    """
    seen: set[bytes] = set()
    with Progress(console=Console(stderr=True)) as bars:
        bar = bars.add_task("comparing episodes", total=sum(manifest.n_episodes for manifest in manifests))
        for manifest in manifests:
            each: list[bytes] = []
            for rows in read_episodes(manifest):
                each += digests_of(rows, manifest.spec.environment, with_ids=False)
                bars.advance(bar, rows.n_episodes)
            mine = set(each)
            if len(mine) < len(each):
                return
            if shared := len(seen & mine):
                raise UserError(
                    f"{manifest.location} shares {shared} of its {len(mine)} episodes with another of the datasets; "
                    "under new ids, held-out ones would be trained on: leave one of the datasets out, or the episodes "
                    "that they share"
                )
            seen |= mine


def _renumbered(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    moved, following = [], 0
    for ids in parts:
        moved.append(ids + following)
        following = int(moved[-1].max()) + 1
    return moved


def _check_arrays(first: DatasetManifest, other: DatasetManifest) -> None:
    if dict(first.members) != dict(other.members):
        different = sorted(set(first.members) ^ set(other.members)) or "arrays of other shapes"
        raise UserError(f"{other.location} and {first.location} do not contain the same arrays ({different})")
    if first.spec.discount != other.spec.discount:
        raise UserError(
            f"{other.location} contains returns with discount {other.spec.discount}, {first.location} with "
            f"{first.spec.discount}; build one of them again with data.discount="
        )


def _merged_behavior(manifests: Sequence[DatasetManifest]) -> dict[str, Any]:
    parts = [_without_returns(manifest) | {"dataset": manifest.spec.name} for manifest in manifests]
    merged: dict[str, Any] = {"name": "merged", "parts": parts}
    won = [manifest.behavior.get("win_rate") for manifest in manifests]
    counts = [manifest.n_episodes for manifest in manifests]
    if all(rate is not None for rate in won):
        merged["win_rate"] = float(np.average(np.array(won, dtype=float), weights=counts))
    return merged


def _without_returns(manifest: DatasetManifest) -> dict[str, Any]:
    """The behaviour's description without its measured returns, which do not hold for a part of the episodes."""
    measured = ("return_mean", "return_std", "win_rate")
    return {name: value for name, value in manifest.behavior.items() if name not in measured}


def _check_quantiles(quantiles: Sequence[float]) -> tuple[float, float]:
    two = (
        isinstance(quantiles, Sequence) and len(quantiles) == 2 and all(isinstance(q, (int, float)) for q in quantiles)
    )
    if not two or not 0 <= quantiles[0] < quantiles[1] <= 1:
        raise UserError(f"quantiles={quantiles} must be two numbers, 0 <= lowest < highest <= 1, as [0.5,1.0]")
    return float(quantiles[0]), float(quantiles[1])
