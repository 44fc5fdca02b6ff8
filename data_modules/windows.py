"""Episodes in memory, and windows gathered from them by index."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data_modules.arrays import EPISODE_ARRAYS, ROW_ARRAYS, STEP_ARRAYS, returns_to_go
from data_modules.manifest import DatasetManifest
from data_modules.shards import ShardEntry, read_shard
from dof_lightning.batch import EpisodeBatch, Window


@dataclass(frozen=True)
class EpisodeTable:
    """All episodes of a dataset end to end: R = sum(length + 1) rows, S = sum(length) steps.

    Attributes:
        observations: `[R, N, O]`.
        actions: `[S, N, A]` or `[S, N]`.
        rewards: `[S, N]`.
        return_to_go: `[S, N]`, with the dataset's discount.
        length: `[n]` int64.
        first_row: `[n]` int64, where an episode's rows begin.
        first_step: `[n]` int64, where its steps begin.
        terminated: `[n]` bool.
        episode_id: `[n]` int64, original indices.
        state: `[R, S]`.
        legal: `[R, N, A]`.
        alive: `[R, N]`.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    return_to_go: Tensor
    length: Tensor
    first_row: Tensor
    first_step: Tensor
    terminated: Tensor
    episode_id: Tensor
    state: Tensor | None = None
    legal: Tensor | None = None
    alive: Tensor | None = None


class WindowIndex:
    """Numbers the windows of some episodes: one for each step, episode after episode.

    Args:
        table: all episodes.
        episodes: `[m]` int64, places in the table.
    """

    def __init__(self, table: EpisodeTable, episodes: Tensor) -> None:
        self.episodes = episodes
        self._end = table.length[episodes].cumsum(0)
        self._start = self._end - table.length[episodes]

    def __len__(self) -> int:
        """How many windows there are."""
        return int(self._end[-1]) if len(self._end) else 0

    def locate(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """The episode (place in the table) and the current time step of windows `[B]`: two `[B]`."""
        place = torch.searchsorted(self._end, windows, right=True)
        return self.episodes[place], windows - self._start[place]


def load_table(manifest: DatasetManifest, on_shard: Callable[[ShardEntry], None] = lambda shard: None) -> EpisodeTable:
    """Reads every shard once into arrays of the final size; agents that are not learned are skipped.

    Args:
        manifest: the dataset.
        on_shard: called after each shard, for progress.

    Raises:
        UserError: a shard is damaged (see `read_shard`).
    """
    members = {name: member for name, member in manifest.members.items() if not name.startswith("extra_")}
    n_episodes, n_steps = manifest.n_episodes, manifest.n_steps
    sizes = dict.fromkeys(EPISODE_ARRAYS, n_episodes) | dict.fromkeys(STEP_ARRAYS, n_steps)
    sizes |= dict.fromkeys(ROW_ARRAYS, n_steps + n_episodes)
    arrays = {name: np.empty((sizes[name], *member.shape), member.dtype) for name, member in members.items()}
    return_to_go = np.empty_like(arrays["rewards"])
    filled = dict.fromkeys(arrays, 0)
    for shard in manifest.shards:
        for rows in read_shard(manifest.url(shard), members, shard):
            step = filled["rewards"]
            for name, array in rows.arrays().items():
                arrays[name][filled[name] : filled[name] + len(array)] = array
                filled[name] += len(array)
            returns = returns_to_go(rows.rewards, rows.length, manifest.spec.discount)
            return_to_go[step : step + rows.n_steps] = returns
        on_shard(shard)
    return _as_table({name: torch.from_numpy(array) for name, array in arrays.items()}, torch.from_numpy(return_to_go))


def gather_windows(
    table: EpisodeTable, episodes: Tensor, t: Tensor, window: Window, train_on_padded_tails: bool = False
) -> EpisodeBatch:
    """The windows around time steps `t` of some episodes.

    Rows before an episode's start repeat its first row, rows behind its end the last; actions repeat likewise.
    Rewards are zero where no step was taken, and so is the return-to-go behind the end.

    Args:
        table: all episodes.
        episodes: `[B]` int64, places in the table.
        t: `[B]` int64, current time steps.
        window: Hh and H; T = Hh + H.
        train_on_padded_tails: whether `diffusion_mask` includes rows behind the end.
    """
    length = table.length[episodes][:, None]
    time = t[:, None] + torch.arange(-window.history, window.horizon + 1)
    valid = (time >= 0) & (time <= length)
    rows = table.first_row[episodes][:, None] + time.clamp(min=0).minimum(length)
    step_time = time[:, :-1]
    taken = valid[:, :-1] & valid[:, 1:]
    steps = table.first_step[episodes][:, None] + step_time.clamp(min=0).minimum(length - 1)
    last = taken & (step_time == length - 1)
    terminated = table.terminated[episodes][:, None]
    after_current = torch.arange(window.length) > window.history
    alive = None if table.alive is None else _per_agent(table.alive, rows)
    transition_mask = taken[:, None].repeat(1, table.rewards.shape[1], 1)
    return EpisodeBatch(
        observations=_per_agent(table.observations, rows),
        actions=_per_agent(table.actions, steps),
        rewards=_per_agent(table.rewards, steps) * taken[:, None],
        terminated=last & terminated,
        truncated=last & ~terminated,
        return_to_go=_per_agent(table.return_to_go, steps) * (step_time < length)[:, None],
        valid=valid,
        diffusion_mask=after_current & (valid[:, :-1] | train_on_padded_tails),
        transition_mask=transition_mask if alive is None else transition_mask & alive[:, :, :-1],
        episode_id=table.episode_id[episodes],
        t=t,
        history=window.history,
        legal=None if table.legal is None else _per_agent(table.legal, rows),
        state=None if table.state is None else table.state[rows],
        alive=alive,
    )


def _per_agent(array: Tensor, rows: Tensor) -> Tensor:
    """Rows `[B, T']` of `[R, N, ...]` as `[B, N, T', ...]`, contiguous, in one gather."""
    n_agents = array.shape[1]
    index = rows[:, None] * n_agents + torch.arange(n_agents)[:, None]
    return array.flatten(0, 1).index_select(0, index.flatten()).view(*index.shape, *array.shape[2:])


def _as_table(arrays: dict[str, Tensor], return_to_go: Tensor) -> EpisodeTable:
    length = arrays.pop("length").to(torch.int64)
    first_step = length.cumsum(0) - length
    first_row = first_step + torch.arange(len(length))
    return EpisodeTable(**arrays, return_to_go=return_to_go, length=length, first_row=first_row, first_step=first_step)
