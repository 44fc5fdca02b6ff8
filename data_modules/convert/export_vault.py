"""Our shards as an OG-MARL vault, written by tensorstore alone; the layout is described in `import_vault.py`."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_modules.convert.import_vault import LEAVES, OURS_KEY, leaf_spec, tensorstore
from data_modules.storage.arrays import EpisodeRows
from data_modules.storage.manifest import DatasetManifest

VERSION = 1.2  # of the layout, as flashbax 0.1 writes it
_CHUNK_ROWS = 1024
_BYTES_AT_ONCE = 1 << 24


def export_vault(manifest: DatasetManifest, groups: Iterator[EpisodeRows], folder: Path) -> None:
    """Writes all episodes, given in order, as one vault into a folder that exists: a timeline `[1, T, N, ...]`.

    A vault has no observation after an episode's last step and no agents that are not learned: these are left out. An
    agent that dies has its terminals from there on. Dimensions that an agent does not have are 0, as OG-MARL pads them;
    `metadata.json` contains their number.
    """
    target: dict[str, Any] = {}
    held: list[dict[str, np.ndarray]] = []
    written = size = 0
    for rows in groups:
        held.append(_timeline(rows))
        size += sum(array.nbytes for array in held[-1].values())
        if size >= _BYTES_AT_ONCE:
            written, held, size = _flush(target, folder, held, written, manifest.n_steps), [], 0
    if held:
        _flush(target, folder, held, written, manifest.n_steps)
    index = np.array([manifest.n_steps], dtype=np.int32)
    _create(folder, "vault_index", index.shape, index.dtype).write(index).result()
    agents = [[agent.name, agent.observation_dim, agent.action_dim] for agent in manifest.spec.environment.agents]
    metadata = _metadata(target) | {OURS_KEY: {"agents": agents}}
    (folder / "metadata.json").write_text(json.dumps(metadata) + "\n", encoding="utf-8")


def _timeline(rows: EpisodeRows) -> dict[str, np.ndarray]:
    """Converts some episodes to arrays `[S, N, ...]`."""
    steps = np.ones(len(rows.observations), dtype=bool)
    steps[np.cumsum(rows.length + 1) - 1] = False
    shape, ends = rows.rewards.shape, np.cumsum(rows.length) - 1
    terminals, truncations = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    terminals[ends], truncations[ends] = rows.terminated[:, None], ~rows.terminated[:, None]
    if rows.alive is not None:
        terminals |= _gone(rows.alive, rows.length)
    arrays = {
        "observations": rows.observations[steps],
        "actions": rows.actions,
        "rewards": rows.rewards,
        "terminals": terminals,
        "truncations": truncations,
    }
    optional = {"legal": rows.legal, "state": rows.state}
    return arrays | {name: array[steps] for name, array in optional.items() if array is not None}


def _gone(alive: np.ndarray, length: np.ndarray) -> np.ndarray:
    """`[S, N]` bool: whether an agent is dead after a step, and stays so; False if all are: that would be the end.

    Args:
        alive: `[R, N]`.
        length: `[n]`, steps of the episodes.
    """
    following = np.ones(len(alive), dtype=bool)
    following[np.cumsum(length + 1) - length - 1] = False
    step = np.arange(length.sum())[:, None]
    last = np.maximum.reduceat(np.where(alive[following], step, -1), np.cumsum(length) - length, axis=0)
    gone = step > np.repeat(last, length, axis=0)
    return gone & ~gone.all(axis=1, keepdims=True)


def _flush(target: dict[str, Any], folder: Path, held: list[dict[str, np.ndarray]], start: int, n_steps: int) -> int:
    """Appends the held rows; returns the row at which the next ones start."""
    end = start
    for name in held[0]:
        array = np.concatenate([part[name] for part in held])
        end = start + len(array)
        if name not in target:
            target[name] = _create(folder, LEAVES[name], (1, n_steps, *array.shape[1:]), array.dtype)
        target[name][0, start:end].write(array).result()
    return end


def _create(folder: Path, leaf: str, shape: tuple[int, ...], dtype: np.dtype) -> Any:
    chunks = [1, min(shape[1], _CHUNK_ROWS), *shape[2:]] if len(shape) > 1 else list(shape)
    spec = leaf_spec(folder, leaf) | {"metadata": {"compressor": {"id": "gzip", "level": 5}, "chunks": chunks}}
    return tensorstore().open(spec, create=True, shape=list(shape), dtype=dtype).result()


def _metadata(target: Mapping[str, Any]) -> dict[str, Any]:
    shapes: dict[str, Any] = {}
    dtypes: dict[str, Any] = {}
    for name, store in target.items():
        *parents, leaf = LEAVES[name].rstrip(".").split(".")
        for tree, value in ((shapes, str(tuple(store.shape))), (dtypes, store.dtype.name)):
            for parent in parents:
                tree = tree.setdefault(parent, {})
            tree[leaf] = value
    return {"version": VERSION, "structure_shape": shapes, "structure_dtype": dtypes}
