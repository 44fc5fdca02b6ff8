"""Episodes in memory, and windows gathered from them by index."""

import math
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from data_modules.storage.arrays import EPISODE_ARRAYS, ROW_ARRAYS, STEP_ARRAYS, EpisodeRows, returns_to_go
from data_modules.storage.manifest import DatasetManifest
from data_modules.storage.shards import Member, ShardEntry, read_shard
from data_modules.storage.split import is_heldout
from dof_lightning.batch import EpisodeBatch, Window

_TERMINATED, _UNSEEN = 1, 2  # bits of an episode's end: it terminated; its last observation was not recorded
_EPISODE_BYTES = 40  # a row of `EpisodeTable.episodes`, and where the episode's windows begin
_WINDOW_BYTES = 12  # a window's episode, and its place in the permutation


@dataclass(frozen=True)
class EpisodeTable:
    """All episodes of a dataset end to end: R = sum(length + 1) rows, S = sum(length) steps.

    Random reads from memory dominate the cost of a batch, so data that are read together are stored together.

    Attributes:
        observations: `[R, N, O]`.
        actions: `[S, N, A]` or `[S, N]`.
        outcomes: `[S, N, 2]`, reward and return-to-go (with the dataset's discount).
        episodes: `[n, 4]` int64: length, first step, its end (`_TERMINATED`, `_UNSEEN` or both, 0: a time limit),
            original index. Its first row is its first step plus its place, because every episode before has one row
            more than steps.
        state: `[R, S]`.
        legal: `[R, N, A]`.
        alive: `[R, N]`.
    """

    observations: Tensor
    actions: Tensor
    outcomes: Tensor
    episodes: Tensor
    state: Tensor | None = None
    legal: Tensor | None = None
    alive: Tensor | None = None

    @property
    def length(self) -> Tensor:
        """`[n]` int64, steps of each episode."""
        return self.episodes[:, 0]

    @property
    def episode_id(self) -> Tensor:
        """`[n]` int64, original indices."""
        return self.episodes[:, 3]


class WindowIndex:
    """Numbers the windows of some episodes: one for each step, episode after episode.

    Args:
        table: all episodes.
        places: `[m]` int64, the episodes' places in the table.
    """

    def __init__(self, table: EpisodeTable, places: Tensor) -> None:
        length = table.length[places]
        self._start = torch.zeros(len(table.length), dtype=torch.int64)
        self._start[places] = length.cumsum(0) - length
        self._place = torch.repeat_interleave(places.to(torch.int32), length)

    def __len__(self) -> int:
        """The number of windows."""
        return len(self._place)

    def locate(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """The episode (place in the table) and the current time step of windows `[B]`: two `[B]`."""
        places = self._place.index_select(0, windows)
        return places, windows - self._start.index_select(0, places)


def split_windows(table: EpisodeTable) -> tuple[WindowIndex, WindowIndex]:
    """Returns the index of the training windows, and the index of held-out episodes' windows."""
    held_out = is_heldout(table.episode_id)
    training, evaluated = (WindowIndex(table, chosen.nonzero()[:, 0]) for chosen in (~held_out, held_out))
    return training, evaluated


def load_table(
    manifest: DatasetManifest,
    shards: Sequence[ShardEntry] | None = None,
    on_shard: Callable[[ShardEntry], None] = lambda shard: None,
    shared: bool = False,
) -> EpisodeTable:
    """Reads shards once into arrays of the final size; agents that are not learned are skipped.

    Args:
        manifest: the dataset.
        shards: the shards to read; None means all.
        on_shard: called after each shard, for progress; an exception that it raises ends the reading.
        shared: whether to use memory that can be passed to other processes without a copy.

    Raises:
        UserError: a shard is damaged (see `read_shard`).
    """
    shards = manifest.shards if shards is None else shards
    members = _learned(manifest.members)
    shapes = _table_shapes(
        members,
        n_episodes=sum(shard.n_episodes for shard in shards),
        n_steps=sum(shard.n_steps for shard in shards),
    )
    arrays = {name: _allocate(shape, dtype, shared) for name, (shape, dtype) in shapes.items()}
    filled = dict.fromkeys(arrays, 0)
    for shard in shards:
        for rows in read_shard(manifest.url(shard), members, shard):
            for name, values in _table_arrays(rows, manifest.spec.discount).items():
                arrays[name].numpy()[filled[name] : filled[name] + len(values)] = values
                filled[name] += len(values)
        on_shard(shard)
    return _as_table(arrays)


def load_heldout(manifest: DatasetManifest, shards: Iterable[ShardEntry]) -> EpisodeTable | None:
    """Loads the held-out episodes of some shards; None if there are none.

    Raises:
        UserError: a shard is damaged (see `read_shard`).
    """
    members = _learned(manifest.members)
    found: list[dict[str, np.ndarray]] = []
    for shard in shards:
        for rows in read_shard(manifest.url(shard), members, shard):
            chosen = np.flatnonzero(is_heldout(torch.from_numpy(rows.episode_id)).numpy())
            if len(chosen):
                found.append(_table_arrays(rows.select(chosen), manifest.spec.discount))
    if not found:
        return None
    return _as_table({name: torch.from_numpy(np.concatenate([part[name] for part in found])) for name in found[0]})


def memory_of(manifest: DatasetManifest, shard: ShardEntry) -> int:
    """The bytes of a shard's episodes in a table, of the numbers of its windows and of their permutation."""
    shapes = _table_shapes(_learned(manifest.members), shard.n_episodes, shard.n_steps)
    arrays = sum(math.prod(shape) * dtype.itemsize for shape, dtype in shapes.values())
    return arrays + _EPISODE_BYTES * shard.n_episodes + _WINDOW_BYTES * shard.n_steps


def gather_windows(
    table: EpisodeTable, places: Tensor, t: Tensor, window: Window, train_on_padded_tails: bool = False
) -> EpisodeBatch:
    """Gathers the windows around time steps `t` of some episodes.

    Rows before an episode's start repeat its first row, rows after its end the last; actions repeat likewise. Rewards
    are zero where no step was taken, and so is the return-to-go after the end. An episode whose last observation was
    not recorded has one valid row less; its last step is a transition only if it terminated, because nothing needs the
    next row then.

    Args:
        table: all episodes.
        places: `[B]`, the episodes' places in the table.
        t: `[B]` int64, current time steps.
        window: Hh and H; T = Hh + H.
        train_on_padded_tails: whether `diffusion_mask` includes rows after the end.
    """
    length, first_step, ending, episode_id = table.episodes.index_select(0, places)[:, None].unbind(-1)
    time = t[:, None] + torch.arange(-window.history, window.horizon + 1)
    unseen = (ending & _UNSEEN) != 0
    valid = (time >= 0) & (time <= length - unseen.to(length.dtype))
    rows = (first_step + places[:, None]) + time.clamp(min=0).minimum(length)
    step_time = time[:, :-1]
    taken = (step_time >= 0) & (step_time < length)
    steps = first_step + step_time.clamp(min=0).minimum(length - 1)
    last = taken & (step_time == length - 1)
    ended = last & ((ending & _TERMINATED) != 0)
    rewards, return_to_go = _per_agent(table.outcomes, steps).unbind(-1)
    after_current = torch.arange(window.length) > window.history
    alive = None if table.alive is None else _per_agent(table.alive, rows)
    transition_mask = (taken & (valid[:, 1:] | ended))[:, None].repeat(1, table.actions.shape[1], 1)
    return EpisodeBatch(
        observations=_per_agent(table.observations, rows),
        actions=_per_agent(table.actions, steps),
        rewards=rewards * taken[:, None],
        terminated=ended,
        truncated=last & ~ended,
        return_to_go=return_to_go * (step_time < length)[:, None],
        valid=valid,
        diffusion_mask=after_current & (valid[:, :-1] | train_on_padded_tails),
        transition_mask=transition_mask if alive is None else transition_mask & alive[:, :, :-1],
        episode_id=episode_id.flatten().contiguous(),
        t=t,
        history=window.history,
        legal=None if table.legal is None else _per_agent(table.legal, rows),
        state=None if table.state is None else table.state[rows],
        alive=alive,
    )


def _per_agent(array: Tensor, rows: Tensor) -> Tensor:
    """Gathers rows `[B, T']` of `[R, N, ...]` as contiguous `[B, N, T', ...]`, in one operation."""
    n_agents = array.shape[1]
    index = rows[:, None] * n_agents + torch.arange(n_agents)[:, None]
    return array.flatten(0, 1).index_select(0, index.flatten()).view(*index.shape, *array.shape[2:])


def _learned(members: Mapping[str, Member]) -> dict[str, Member]:
    return {name: member for name, member in members.items() if not name.startswith("extra_")}


def _table_shapes(
    members: Mapping[str, Member], n_episodes: int, n_steps: int
) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shapes and types of a table's arrays, by name."""
    sizes = dict.fromkeys(EPISODE_ARRAYS, n_episodes) | dict.fromkeys(STEP_ARRAYS, n_steps)
    sizes |= dict.fromkeys(ROW_ARRAYS, n_steps + n_episodes)
    shapes = {name: ((sizes[name], *member.shape), np.dtype(member.dtype)) for name, member in members.items()}
    shapes["outcomes"] = ((*shapes.pop("rewards")[0], 2), np.dtype(np.float32))
    return shapes


def _table_arrays(rows: EpisodeRows, discount: float) -> dict[str, np.ndarray]:
    arrays = rows.arrays()
    rewards = arrays.pop("rewards")
    return arrays | {"outcomes": np.stack((rewards, returns_to_go(rewards, rows.length, discount)), axis=-1)}


def _allocate(shape: tuple[int, ...], dtype: np.dtype, shared: bool) -> Tensor:
    if not shared:
        return torch.from_numpy(np.empty(shape, dtype))
    tensor = torch.empty(shape, dtype=torch.from_numpy(np.empty(0, dtype)).dtype)
    return tensor.share_memory_()  # type: ignore[no-untyped-call]


def _as_table(arrays: dict[str, Tensor]) -> EpisodeTable:
    length, ending, episode_id = (arrays.pop(name).to(torch.int64) for name in ("length", "terminated", "episode_id"))
    if "unseen_end" in arrays:
        ending = ending * _TERMINATED + arrays.pop("unseen_end").to(torch.int64) * _UNSEEN
    first_step = length.cumsum(0) - length
    return EpisodeTable(**arrays, episodes=torch.stack((length, first_step, ending, episode_id), dim=1))


def gather_numbered(
    table: EpisodeTable, index: WindowIndex, window: Window, train_on_padded_tails: bool, windows: Tensor
) -> EpisodeBatch:
    """Gathers the windows of an index by their numbers `[B]`; other arguments as in `gather_windows`."""
    return gather_windows(table, *index.locate(windows), window, train_on_padded_tails)


_IGNORED_BY_WORKERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class InTurn(IterableDataset):
    """An iterable dataset for a DataLoader; workers take items in turn, so the items come in order.

    Ctrl-C in a terminal and a scheduler's SIGTERM reach workers too. Workers ignore them and leave the response to the
    training process: the current step may need batches, and a worker that dies would end the run before it is saved.

    Args:
        items: yields every item from the first on in strides; called with first and stride.
    """

    def __init__(self, items: Callable[[int, int], Iterator[Any]]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        """Yields the items, without end if they have none."""
        worker = get_worker_info()
        if worker is None:
            return self._items(0, 1)
        for number in _IGNORED_BY_WORKERS:
            signal.signal(number, signal.SIG_IGN)
        return self._items(worker.id, worker.num_workers)


def start_workers(loader: DataLoader) -> Iterator[Any]:
    """Starts the workers of a loader of `InTurn`, with a mask that holds signals back until they are ignored."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED_BY_WORKERS)
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def training_batches(
    windows: Callable[[int], Tensor], gather: Callable[[Tensor], EpisodeBatch], start: int, first: int, stride: int
) -> Iterator[EpisodeBatch]:
    """The batches of steps `start + first`, `start + first + stride`, ... without end (see `InTurn`).

    `windows` gives the window numbers `[B]` of a step, of which `gather` makes a batch.
    """
    return (gather(windows(step)) for step in count(start + first, stride))
