"""Identity of episodes: a digest of their contents, however they are ordered, padded and cut into blocks."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from data_modules.storage.arrays import ROW_ARRAYS, STEP_ARRAYS, EpisodeRows
from data_modules.storage.manifest import DatasetManifest, read_episodes
from data_modules.storage.shards import expected_members
from dof_lightning.schema import is_digest
from dof_lightning.spec import EnvSpec

KEY = "contents"  # key in the recipe of a dataset that none of our recipes makes


class Contents:
    """Digests episodes in blocks of any size and order; equal sets of episodes give equal digests.

    Args:
        environment: the episodes' environment; everything that changes their meaning is part of the digest.
        discount: gamma of their returns, also part of the digest.
    """

    def __init__(self, environment: EnvSpec, discount: float) -> None:
        self._environment, self._sum = environment, 0
        meaning = environment.to_dict()
        for name in ("name", "reference", "own_reference"):  # for display only; may change
            del meaning[name]
        self._meaning = json.dumps(meaning | {"discount": float(discount)}, sort_keys=True)

    def update(self, rows: EpisodeRows) -> None:
        """Adds a block of episodes, in the types in which shards hold them."""
        for digest in digests_of(rows, self._environment):
            self._sum += int.from_bytes(digest)  # a sum, so that the order does not matter

    def finish(self) -> str:
        """The digest of all episodes so far, 32 hex digits."""
        return hashlib.sha256(f"{self._meaning} {self._sum:x}".encode()).hexdigest()[:32]


def digests_of(rows: EpisodeRows, environment: EnvSpec, with_ids: bool = True) -> Iterator[bytes]:
    """Yields a digest of each episode's arrays, in the types in which shards hold them.

    Args:
        rows: a block of episodes.
        environment: theirs.
        with_ids: whether an episode's id is part of its digest.
    """
    members, given = expected_members(rows, environment), rows.arrays()
    names = [name for name in given if with_ids or name != "episode_id"]
    arrays = {name: np.ascontiguousarray(given[name], dtype=members[name].dtype) for name in names}
    layout = str([(name, arrays[name].dtype.str, arrays[name].shape[1:]) for name in sorted(arrays)]).encode()
    for places in _places(rows.length):
        hashed = hashlib.sha256(layout)
        for name in sorted(arrays):
            hashed.update(arrays[name][places.get(name, places["length"])].tobytes())
        yield hashed.digest()


def contents_of(manifest: DatasetManifest) -> str:
    """The digest of the episodes in a dataset's shards.

    Raises:
        UserError: a shard is damaged.
    """
    contents = Contents(manifest.spec.environment, manifest.spec.discount)
    for rows in read_episodes(manifest):
        contents.update(rows)
    return contents.finish()


def has_source_digest(recipe: Mapping[str, Any]) -> bool:
    """Whether a recipe has the sha256 of the files that episodes are imported from, which identifies them, too."""
    imported = recipe.get("imported")
    return isinstance(imported, Mapping) and is_digest(imported.get("files"))


def _places(length: np.ndarray) -> Iterator[dict[str, slice]]:
    """The place of each episode in the arrays of its block, by name; `length` for those with one entry per episode."""
    ends = np.cumsum(length, dtype=np.int64).tolist()
    for episode, (end, steps) in enumerate(zip(ends, length.tolist(), strict=True)):
        rows = slice(end - steps + episode, end + episode + 1)
        places = dict.fromkeys(STEP_ARRAYS, slice(end - steps, end)) | dict.fromkeys(ROW_ARRAYS, rows)
        yield places | {"length": slice(episode, episode + 1)}
