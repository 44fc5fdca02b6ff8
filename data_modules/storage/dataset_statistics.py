"""Statistics of a dataset's training episodes, gathered while its shards are written."""

from dataclasses import dataclass, field

import numpy as np
import torch

from data_modules.storage.arrays import DataFault, EpisodeRows
from data_modules.storage.split import is_heldout
from dof_lightning.seeding import counter_uniform, derive_seed
from dof_lightning.spec import DatasetStatistics, DimensionStatistics, EnvSpec

N_KNOTS = 1001
KNOT_EPISODES = 8192
KNOT_BYTES = 1 << 26
RETURN_EPISODES = 1 << 18

_KNOT_KEY = derive_seed("episodes behind quantile knots")
_RETURN_KEY = derive_seed("episodes behind return knots")


@dataclass
class Moments:
    """Running mean, variance and range (Chan, Golub and LeVeque, 1979); `[N, D]` each, float64."""

    count: int = 0
    mean: np.ndarray = field(default_factory=lambda: np.zeros(()))
    squares: np.ndarray = field(default_factory=lambda: np.zeros(()))
    minimum: np.ndarray = field(default_factory=lambda: np.array(np.inf))
    maximum: np.ndarray = field(default_factory=lambda: np.array(-np.inf))

    def update(self, values: np.ndarray) -> None:
        """Adds rows `[R, N, D]`."""
        if len(values) == 0:
            return
        mean = values.mean(axis=0, dtype=np.float64)
        squares = np.square(values - mean).sum(axis=0)
        total = self.count + len(values)
        delta = mean - self.mean
        self.squares = self.squares + squares + np.square(delta) * (self.count * len(values) / total)
        self.mean = self.mean + delta * (len(values) / total)
        self.minimum = np.minimum(self.minimum, values.min(axis=0))
        self.maximum = np.maximum(self.maximum, values.max(axis=0))
        self.count = total


@dataclass
class _Dimensions:
    """Moments of all rows of an array, and the rows from which its quantile knots are computed."""

    moments: Moments = field(default_factory=Moments)
    sample: list[np.ndarray] = field(default_factory=list)

    def finish(self) -> DimensionStatistics:
        sample = np.concatenate(self.sample)
        self.sample.clear()
        moments = self.moments
        minimum, maximum = moments.minimum.astype(np.float32), moments.maximum.astype(np.float32)
        knots = quantile_knots(sample) if len(sample) else np.linspace(minimum, maximum, N_KNOTS, dtype=np.float32)
        knots[0], knots[-1] = minimum, maximum
        return DimensionStatistics(
            mean=moments.mean.astype(np.float32),
            std=np.sqrt(moments.squares / moments.count).astype(np.float32),
            minimum=minimum,
            maximum=maximum,
            knots=knots,
        )


class ReturnStatistics:
    """Mean, deviation and quantiles of episode returns.

    With up to `RETURN_EPISODES` episodes, everything is exact. With more, quantiles are those of about that many
    episodes, chosen by a hash of their id, with the exact minimum and maximum at the ends: memory does not grow with
    the dataset.

    Args:
        n_episodes: largest number of episodes to come.
    """

    def __init__(self, n_episodes: int) -> None:
        self._fraction = RETURN_EPISODES / n_episodes
        self._moments = Moments()
        self._kept: list[np.ndarray] = []

    def update(self, returns: np.ndarray, episode_id: np.ndarray) -> None:
        """Adds episodes by their ids and returns, `[n]` each."""
        self._moments.update(returns[:, None])
        if self._fraction < 1:
            returns = returns[
                counter_uniform(torch.from_numpy(episode_id) ^ _RETURN_KEY, 1)[:, 0].numpy() < self._fraction
            ]
        self._kept.append(returns)

    def __len__(self) -> int:
        """The number of episodes that were added."""
        return self._moments.count

    def mean_and_std(self) -> tuple[float, float]:
        """Mean and standard deviation over all episodes."""
        if self._fraction >= 1:
            returns = np.concatenate(self._kept)
            return float(returns.mean()), float(returns.std())
        return float(self._moments.mean[0]), float(np.sqrt(self._moments.squares[0] / self._moments.count))

    def knots(self) -> np.ndarray:
        """`[Q]` float32; see `quantile_knots`."""
        knots = quantile_knots(np.concatenate(self._kept))
        knots[0], knots[-1] = self._moments.minimum[0], self._moments.maximum[0]
        return knots


class StatisticsAccumulator:
    """Statistics of observations, actions and returns, over the episodes that are not held out.

    Means, deviations and ranges are over all rows. Quantile knots are over all rows of up to about `KNOT_EPISODES`
    episodes (fewer if those could take more than `KNOT_BYTES`), chosen by a hash of their id, with the exact minimum
    and maximum at the ends; for returns see `ReturnStatistics`.

    Args:
        environment: the environment's spec.
        discount: gamma of the discounted returns.
        n_episodes: number of episodes to come.

    Attributes:
        longest: steps of the longest episode.
        n_terminated: episodes that really ended.
        returns: undiscounted, of all episodes, held-out ones included.
    """

    def __init__(self, environment: EnvSpec, discount: float, n_episodes: int) -> None:
        self._discount = discount
        self._knot_fraction = min(KNOT_EPISODES, KNOT_BYTES / _largest_episode(environment)) / n_episodes
        arrays = ("observations", "actions") if environment.action_kind == "continuous" else ("observations",)
        self._dimensions = {name: _Dimensions() for name in arrays}
        self._returns = ReturnStatistics(n_episodes)
        self._discounted_returns = ReturnStatistics(n_episodes)
        self.returns = ReturnStatistics(n_episodes)
        self.longest = 0
        self.n_terminated = 0

    def update(self, rows: EpisodeRows) -> None:
        """Adds a block of episodes, held-out ones included."""
        self.longest = max(self.longest, int(rows.length.max()))
        self.n_terminated += int(rows.terminated.sum())
        self.returns.update(episode_returns(rows, 1.0), rows.episode_id)
        episode_id = torch.from_numpy(rows.episode_id)
        training = rows.select(np.flatnonzero(~is_heldout(episode_id).numpy()))
        self._returns.update(episode_returns(training, 1.0), training.episode_id)
        self._discounted_returns.update(episode_returns(training, self._discount), training.episode_id)
        chosen = counter_uniform(torch.from_numpy(training.episode_id) ^ _KNOT_KEY, 1)[:, 0] < self._knot_fraction
        sample = training.select(np.flatnonzero(chosen.numpy()))
        for name, dimensions in self._dimensions.items():
            dimensions.moments.update(getattr(training, name))
            dimensions.sample.append(getattr(sample, name))

    def finish(self) -> DatasetStatistics:
        """Returns the statistics and frees the data that they are made from.

        Raises:
            DataFault: every episode is held out.
        """
        if len(self._returns) == 0:
            raise DataFault("every episode is held out: collect more of them")
        mean, std = self._returns.mean_and_std()
        dimensions = {name: found.finish() for name, found in self._dimensions.items()}
        return DatasetStatistics(
            observations=dimensions["observations"],
            actions=dimensions.get("actions"),
            return_mean=mean,
            return_std=std,
            discounted_return_knots=self._discounted_returns.knots(),
        )


def _largest_episode(environment: EnvSpec) -> int:
    """The bytes of the observations and actions of an episode that lasts to the horizon."""
    widths = environment.observation_dim * (environment.horizon + 1) + environment.action_dim * environment.horizon
    return 4 * environment.n_agents * widths


def episode_returns(rows: EpisodeRows, discount: float) -> np.ndarray:
    """R_0 = sum_l discount^l r_l of each episode, mean over agents: `[n]` float64."""
    if rows.n_episodes == 0:
        return np.zeros(0)
    first = np.cumsum(rows.length, dtype=np.int64) - rows.length
    time = np.arange(rows.n_steps) - np.repeat(first, rows.length)
    return np.add.reduceat(rows.rewards.mean(axis=1, dtype=np.float64) * discount**time, first)


def quantile_knots(values: np.ndarray) -> np.ndarray:
    """Q evenly spaced quantiles from the minimum to the maximum of `[R, ...]`, R at least 1: `[Q, ...]` float32.

    Linear between samples; Q is `N_KNOTS`.
    """
    ordered = np.sort(values, axis=0)
    place = np.linspace(0.0, len(ordered) - 1.0, N_KNOTS)
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, len(ordered) - 1)
    share = (place - below).reshape(-1, *(1,) * (values.ndim - 1))
    return ((1 - share) * ordered[below] + share * ordered[above]).astype(np.float32)
