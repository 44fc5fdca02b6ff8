"""Reading of a whole dataset to verify that it matches its description."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from data_modules.storage.arrays import EpisodeRows, find_fault
from data_modules.storage.manifest import DatasetManifest, read_manifest
from data_modules.storage.shards import open_url, read_shard
from dof_lightning.errors import UserError


@dataclass(frozen=True)
class Verification:
    """The results of `verify_dataset` besides errors.

    Attributes:
        n_shards: number of shards, all read in full.
        n_bytes: number of bytes, all read in full.
        warnings: facts that are allowed but look wrong, one sentence each.
    """

    n_shards: int
    n_bytes: int
    warnings: tuple[str, ...]


def verify_dataset(path: Path | str, progress: bool = True) -> Verification:
    """Reads everything: sha256 of every shard, types, shapes, finiteness, lengths, ids, meaning of values.

    Raises:
        UserError: at the first fault; the message names the file, the member and the fix.
    """
    manifest = read_manifest(path)
    ids: list[np.ndarray] = []
    ends: list[tuple[int, int]] = []
    illegal = 0
    shards = manifest.shards
    console = Console(stderr=True)
    quiet = not (progress and console.is_terminal)
    for shard in track(shards, "verifying", console=console, transient=True, disable=quiet):
        url = manifest.url(shard)
        _check_hash(url, shard.sha256)
        for number, rows in enumerate(read_shard(url, manifest.members, shard)):
            if fault := find_fault(rows, manifest.spec.environment):
                raise UserError(f"{url}, sample {number:06d}: {fault}; build the dataset again")
            at_limit = rows.length == manifest.spec.horizon
            ends.append((int(at_limit.sum()), int((at_limit & rows.terminated).sum())))
            ids.append(rows.episode_id)
            illegal += _count_illegal(rows)
    if len(np.unique(np.concatenate(ids))) != manifest.n_episodes:
        raise UserError(f"{manifest.location}: an episode_id appears twice; build the dataset again")
    return Verification(len(shards), manifest.n_bytes, _warnings(manifest, ends, illegal))


def _warnings(manifest: DatasetManifest, ends: list[tuple[int, int]], illegal: int) -> tuple[str, ...]:
    at_limit, terminated_at_limit = map(sum, zip(*ends, strict=True))
    found = []
    if at_limit and at_limit == terminated_at_limit and manifest.spec.horizon > 1:
        found.append("every episode at the time limit is marked as terminated: time limits may be stored as terminals")
    if at_limit < manifest.n_episodes and manifest.n_terminated == 0:
        found.append("episodes end before the time limit but none is marked as terminated: terminals may be missing")
    actions = manifest.spec.statistics.actions
    if actions is not None and actions.minimum.min() >= 0 and actions.maximum.max() > 0:
        found.append("no action is below 0, though actions are from -1 to 1: they may be stored in units from 0 to 1")
    imported = manifest.spec.recipe.get("imported")
    if isinstance(imported, Mapping) and imported.get("format") in ("vault", "madiff") and "ends" not in imported:
        found.append(
            "imported by version 0.1.0, which took a repeated row for the observation after the last step of an "
            "episode: delete the folder and import it again"
        )
    if illegal:
        found.append(f"{illegal:,} of {manifest.n_steps * manifest.spec.n_agents:,} actions were not legal when taken")
    return tuple(found)


def _count_illegal(rows: EpisodeRows) -> int:
    """Counts actions that `legal` forbids in their row."""
    if rows.legal is None or rows.actions.dtype.kind == "f":
        return 0
    acted = np.ones(len(rows.legal), dtype=bool)
    acted[np.cumsum(rows.length + 1) - 1] = False
    allowed = np.take_along_axis(rows.legal[acted], rows.actions[..., None], axis=-1)
    return int(np.count_nonzero(~allowed))


def _check_hash(url: str, expected: str) -> None:
    with open_url(url) as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
    if found != expected:
        raise UserError(
            f"{url} was changed after it was written (another sha256); delete the folder and build it again"
        )
