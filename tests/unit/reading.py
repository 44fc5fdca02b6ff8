"""Reading datasets in full and comparing what was read."""

from pathlib import Path

import numpy as np

from data_modules.arrays import EpisodeRows, concatenate
from data_modules.manifest import read_manifest
from data_modules.shards import read_shard


def read_all(path: Path | str) -> EpisodeRows:
    manifest = read_manifest(path)
    blocks = [rows for shard in manifest.shards for rows in read_shard(manifest.url(shard), manifest.members, shard)]
    return concatenate(blocks)


def sorted_by_id(rows: EpisodeRows) -> EpisodeRows:
    return rows.select(np.argsort(rows.episode_id))


def assert_same(left: EpisodeRows, right: EpisodeRows) -> None:
    assert left.arrays().keys() == right.arrays().keys()
    for name, array in left.arrays().items():
        np.testing.assert_array_equal(array, right.arrays()[name], err_msg=name)


def shard_bytes(path: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted(path.glob("*.tar"))]
