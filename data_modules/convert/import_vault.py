"""OG-MARL's vaults: zarr arrays in an OCDBT store, read by tensorstore alone (no jax, no flashbax).

Layout: `<scenario>.vlt/<uid>/metadata.json` and leaves whose names end in a dot, one flat timeline `[1, T, N, ...]`,
valid up to `vault_index` (facts: github.com/instadeepai/flashbax, github.com/instadeepai/og-marl).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_modules.convert.base import EpisodeSource, Layout, as_truth, check_shape, digest
from data_modules.convert.flat import (
    CUT,
    ENDED,
    ENDS,
    GOES_ON,
    Cuts,
    Timeline,
    find_identities,
    observation_sizes,
    without_identities,
)
from data_modules.storage.action_units import OURS
from data_modules.storage.arrays import EpisodeRows
from dof_lightning.errors import UserError
from dof_lightning.spec import ActionKind, AgentSpec, EnvSpec

LEAVES = {
    "observations": "observations.",
    "actions": "actions.",
    "rewards": "rewards.",
    "terminals": "terminals.",
    "truncations": "truncations.",
    "legal": "infos.legals.",
    "state": "infos.state.",
}
OURS_KEY = "dof_lightning"  # key of metadata.json: facts of our vaults that their arrays do not contain
_OPTIONAL = ("legal", "state")
_ROWS_AT_ONCE = 1 << 16  # of small leaves
INSTALL = "pip install -c constraints.txt -e '.[vault]'"


def tensorstore() -> Any:
    """Imports the package.

    Raises:
        UserError: it is not installed.
    """
    try:
        import tensorstore as package
    except ImportError:
        raise UserError(f"vaults are read and written with the package tensorstore; install it: {INSTALL}") from None
    return package


class VaultSource(EpisodeSource):
    """One vault: `<scenario>.vlt/<uid>`.

    The vault keeps no observation after an episode's last step (`unseen_end`). If an agent has fewer dimensions than
    others, its observation is padded, with -inf in some vaults.

    Args:
        path: the folder of `metadata.json`, or a folder above it that contains only one.
        environment: the environment of the data; None means that it is inferred.

    Raises:
        UserError: the folder is not a vault, or leaves are missing or do not fit together.
    """

    def __init__(self, path: Path, environment: EnvSpec | None = None) -> None:
        self.location = _find(path)
        metadata = _metadata(self.location)
        self._leaves = self._open()
        self._n_rows = _index(self.location)
        n_timelines, n_agents = _shape(self.location, self._leaves)
        if "state" in self._leaves and self._leaves["state"].shape[2] == 0:
            del self._leaves["state"]
        if not 1 <= self._n_rows <= min(int(leaf.shape[1]) for leaf in self._leaves.values()):
            raise UserError(f"{self.location}: vault_index is {self._n_rows}, but the arrays have fewer rows")
        self._n_timelines, self._n_agents = n_timelines, n_agents
        start = self._rows("observations", 0, 0, min(self._n_rows, 256))
        ours = _exported_agents(self.location, metadata[OURS_KEY]) if OURS_KEY in metadata else ()
        wanted = None if environment is None else environment.observation_dim
        ids = None if ours else find_identities(start, wanted)  # an exported vault says what its dimensions are
        bare = without_identities(start, n_agents, ids)
        self._cuts = [self._cut(timeline) for timeline in range(n_timelines)]
        kind, choices = self._actions()
        if kind == "discrete" and "legal" not in self._leaves:  # the largest choice may never have been taken
            if environment is not None and environment.action_kind == "discrete":
                choices = environment.action_dim
            elif ours:
                choices = max(choices, *(agent.action_dim for agent in ours))
        sizes = observation_sizes(bare)
        agents = tuple(AgentSpec(f"agent_{i}", size, choices) for i, size in enumerate(sizes))
        if ours:
            _check_exported(self.location, ours, bare.shape[1:], choices)
            agents, self.declared = ours, OURS
        if environment is not None and (n_agents, bare.shape[2], choices) == (
            environment.n_agents,
            environment.observation_dim,
            environment.action_dim,
        ):
            agents = environment.agents  # it specifies which of the dimensions are padding
        self.layout = Layout(
            agents,
            kind,
            max(int(cuts.length.max()) for cuts in self._cuts),
            int(self._leaves["state"].shape[2]) if "state" in self._leaves else 0,
        )
        self.n_episodes = sum(len(cuts.length) for cuts in self._cuts)
        names = tuple(name for name in self._leaves if name not in ("terminals", "truncations"))
        names += ("ended",) * any(cuts.agents_leave for cuts in self._cuts)
        sizes = tuple(agent.observation_dim for agent in agents)
        self._timelines = [
            Timeline(self.location, reader, names, sizes, choices if kind == "discrete" else None, ids)
            for reader in map(self._reader, range(n_timelines))
        ]

    def identity(self) -> dict[str, Any]:
        """See `EpisodeSource.identity`."""
        files = [file for file in sorted(self.location.rglob("*")) if file.is_file()]
        return {"format": "vault", "files": digest(files, self.location), "rows": self._n_rows, "ends": ENDS}

    def blocks(self, first: int) -> Iterator[EpisodeRows]:
        """See `EpisodeSource.blocks`."""
        before, units = 0, self.units.for_agents(self.layout.agents)
        for timeline, cuts in zip(self._timelines, self._cuts, strict=True):
            for rows in timeline.blocks(cuts, max(0, first - before), units):
                rows.episode_id += before
                yield rows
            before += len(cuts.length)

    def _open(self) -> dict[str, Any]:
        stores = {}
        for name, leaf in LEAVES.items():
            try:
                stores[name] = tensorstore().open(leaf_spec(self.location, leaf), open=True, read=True).result()
            except ValueError as error:
                if name not in _OPTIONAL or "NOT_FOUND" not in str(error):
                    raise UserError(
                        f"{self.location}: leaf {leaf!r} cannot be read ({' '.join(str(error).split())[:200]}); "
                        "is the vault complete?"
                    ) from None
        return stores

    def _rows(self, name: str, timeline: int, first: int, last: int) -> np.ndarray:
        rows = np.asarray(self._leaves[name][timeline, first:last].read().result())
        is_truth = name in ("legal", "terminals", "truncations")
        return as_truth(f"{self.location}: {LEAVES[name]}", rows, first) if is_truth else rows

    def _reader(self, timeline: int) -> Any:
        actions = self._leaves["actions"]
        is_column = actions.dtype.numpy_dtype.kind in "iu" and len(actions.shape) == 4  # choices as `[T, N, 1]`

        def read(name: str, first: int, last: int) -> np.ndarray:
            if name == "ended":
                return self._ended(timeline, first, last)
            rows = self._rows(name, timeline, first, last)
            return rows[..., 0] if name == "actions" and is_column else rows

        return read

    def _cut(self, timeline: int) -> Cuts:
        cuts = Cuts.where_all_are_over(partial(self._ended, timeline), self._n_rows)
        if cuts is None:
            raise UserError(
                f"{self.location}: neither terminals nor truncations ever end an episode, so there are no episodes"
            )
        return cuts

    def _ended(self, timeline: int, first: int, last: int) -> np.ndarray:
        """Reads each agent's marks `[T, N]`, see `Cuts.where_all_are_over`."""
        terminal, cut = (self._rows(name, timeline, first, last) for name in ("terminals", "truncations"))
        return np.where(terminal, ENDED, np.where(cut, CUT, GOES_ON)).astype(np.int8)

    def _actions(self) -> tuple[ActionKind, int]:
        """The kind of actions, and the number of dimensions or choices."""
        actions = self._leaves["actions"]
        if actions.dtype.numpy_dtype.kind == "f":
            return "continuous", int(actions.shape[3])
        if "legal" in self._leaves:
            return "discrete", int(self._leaves["legal"].shape[3])
        largest = max(
            int(self._rows("actions", b, first, min(first + _ROWS_AT_ONCE, self._n_rows)).max())
            for b in range(self._n_timelines)
            for first in range(0, self._n_rows, _ROWS_AT_ONCE)
        )
        return "discrete", largest + 1


def leaf_spec(folder: Path, leaf: str) -> dict[str, Any]:
    """The specification by which tensorstore opens a leaf."""
    place = {"driver": "file", "path": f"{folder.resolve()}/"}  # no address, in which #, ? and % mean something else
    store = {"driver": "ocdbt", "base": place, "path": leaf}
    return {"driver": "zarr", "kvstore": store, "context": {"cache_pool": {"total_bytes_limit": 0}}}


def _find(path: Path) -> Path:
    candidates = [file.parent for depth in ("", "*/", "*/*/") for file in sorted(path.glob(f"{depth}metadata.json"))]
    if len(candidates) != 1:
        found = ", ".join(str(folder.relative_to(path)) for folder in candidates) or "none"
        raise UserError(f"source={path}: it must contain one vault (a folder with metadata.json), found: {found}")
    return candidates[0]


def _metadata(folder: Path) -> dict[str, Any]:
    """Reads a vault's metadata.

    Raises:
        UserError: the folder is not a vault, or contains arrays of a kind that is not read here.
    """
    file = folder / "metadata.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        version, shapes = float(found["version"]), found.get("structure_shape", {})
        layout = {name: shapes.get(name) for name in ("observations", "actions", "rewards")}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is not the metadata of a vault ({type(error).__name__}: {error})") from None
    if not 1 <= version < 2:
        raise UserError(f"{folder}: vaults of version {version} are not known, only 1.x")
    nested = {name: list(shape) for name, shape in layout.items() if isinstance(shape, dict)}
    if nested:
        name, agents = next(iter(nested.items()))
        some = ", ".join([*map(str, agents[:3]), *["..."] * (len(agents) > 3)])
        raise UserError(
            f"{folder}: {name} are a dictionary by agent ({some}); "
            f"only vaults that stack agents, {name} [B, T, N, ...], are read: stack them before they are written, or "
            "use format=npz"
        )
    return dict(found)


def _exported_agents(folder: Path, entry: Any) -> tuple[AgentSpec, ...]:
    """Reads the agents of a vault that was written here: its padding is zeros, which look like values."""
    try:
        agents = tuple(AgentSpec(str(name), int(seen), int(acted)) for name, seen, acted in entry["agents"])
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"{folder}/metadata.json: {OURS_KEY} is damaged ({error}); remove that entry") from None
    if not agents:
        raise UserError(f"{folder}/metadata.json: {OURS_KEY} is damaged (it names no agent); remove that entry")
    return agents


def _check_exported(folder: Path, agents: Sequence[AgentSpec], shape: tuple[int, ...], choices: int) -> None:
    found = (len(agents), max(agent.observation_dim for agent in agents), max(agent.action_dim for agent in agents))
    if found != (*shape, choices):
        raise UserError(f"{folder}/metadata.json: {OURS_KEY} describes other agents than the arrays; remove that entry")


def _index(folder: Path) -> int:
    try:
        store = tensorstore().open(leaf_spec(folder, "vault_index"), open=True, read=True).result()
    except ValueError:
        raise UserError(f"{folder}: vault_index is missing; is the vault complete?") from None
    found = np.asarray(store.read().result()).reshape(-1)
    if not len(found):
        raise UserError(f"{folder}: vault_index is empty; is the vault complete?")
    return int(found[0])


def _shape(folder: Path, leaves: Mapping[str, Any]) -> tuple[int, int]:
    """Returns the numbers of timelines and agents, after a check that all leaves have the same."""
    shape = tuple(leaves["observations"].shape)
    if len(shape) != 4:
        raise UserError(f"{folder}: observations have shape {list(shape)}, expected [B, T, N, O]")
    batch, _, n_agents, _ = shape
    expected = {"rewards": 3, "terminals": 3, "truncations": 3, "legal": 4, "state": 3}
    actions = leaves["actions"]
    single = (batch, None, n_agents) if len(actions.shape) == 3 else (batch, None, n_agents, 1)
    discrete = actions.dtype.numpy_dtype.kind != "f"
    check_shape(f"{folder}: {LEAVES['actions']}", actions, single if discrete else (batch, None, n_agents, None))
    for name, dimensions in expected.items():
        if name in leaves:
            per_agent = () if name == "state" else (n_agents,)
            rest = (None,) * (dimensions - 2 - len(per_agent))
            check_shape(f"{folder}: {LEAVES[name]}", leaves[name], (batch, None, *per_agent, *rest))
    return batch, n_agents
