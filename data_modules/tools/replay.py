"""Replay of a dataset's actions, to check that their effect in an environment is the recorded one."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from data_modules.storage.arrays import Episodes, concatenate
from data_modules.storage.manifest import DatasetManifest, read_episodes, read_manifest
from dof_lightning.errors import UserError
from dof_lightning.seeding import derive_seed
from dof_lightning.spec import check_same_world

if TYPE_CHECKING:
    from dof_lightning.envs.base import VectorEnv

EPISODES, STEPS = 500, 5
_EXACT = 1e-3  # relative; rounding of a state that is read off observations stays far below
_FEW = 0.05  # share of episodes that may differ nevertheless, because contacts magnify rounding
_SURPRISING = 5.0  # standard errors between two samples
_ROUNDING = 1e-5  # relative


@dataclass(frozen=True)
class Replay:
    """The results of `replay`.

    Attributes:
        n_episodes: number of episodes that were played.
        exact: whether the environment was set to the episodes' first states; else its own starts were compared with
            theirs.
        warning: one sentence on what does not fit; None if everything does.
    """

    n_episodes: int
    exact: bool
    warning: str | None


def replay(manifest: DatasetManifest, environment: "VectorEnv") -> Replay:
    """Plays the first actions of some episodes.

    If the environment can be set to their first states (`VectorEnv.reset_like`, or it always starts alike), rewards
    and observations of the first steps must be the same. Otherwise the changes and rewards of the first joint actions
    are compared, in location and spread, with those of the same actions from the environment's own starts.

    Raises:
        UserError: the data come from another world, or the world cannot be played here or not from its own starts.
    """
    check_same_world(manifest.spec.name, manifest.spec.environment, environment.spec)
    environment.check_available()
    episodes = _first_episodes(manifest)
    exact, mine, theirs = _play(episodes, environment)
    n_episodes = len(episodes.length)
    if exact:
        differs = np.zeros(n_episodes, dtype=bool)
        for recorded, played in zip(mine, theirs, strict=True):
            far = np.abs(recorded - played) > _EXACT * (1 + np.abs(recorded))
            differs |= far.reshape(n_episodes, -1).any(axis=1)
        share = float(differs.mean())
        found = f"{share:.0%} of {n_episodes} episodes continue differently" if share > _FEW else None
    else:
        worst = max(_distance(recorded, played) for recorded, played in zip(mine, theirs, strict=True))
        found = f"the first step has other observations or rewards ({worst:.0f} standard errors apart)"
        found = found if worst > _SURPRISING else None
    if found is None:
        return Replay(n_episodes, exact, None)
    rewards = f"mean reward {np.nanmean(theirs[1]):.4g}, in the data {np.nanmean(mine[1]):.4g}"
    return Replay(
        n_episodes,
        exact,
        f"its actions played again in env={environment.spec.name}: {found}, {rewards}; actions may be in other units "
        "(import again with action_range=) or of another world",
    )


def tell(path: Path | str, environment: "VectorEnv") -> str:
    """Reports the results of `replay`, for the screen.

    Raises:
        UserError: as in `replay`; also if the environment was set to the first states and differs from there on.
    """
    found = replay(read_manifest(path), environment)
    if found.warning is None:
        start = "their first states" if found.exact else "other starts of the same world"
        does = f"{found.n_episodes} episodes' actions played again in env={environment.spec.name} from {start}"
        return f"{does} do what they did in the data"
    if found.exact:
        raise UserError(f"{path}: {found.warning}")
    return f"warning: {found.warning}"


def _first_episodes(manifest: DatasetManifest) -> Episodes:
    found, count = [], 0
    for rows in read_episodes(manifest):
        found.append(rows.select(np.arange(min(rows.n_episodes, EPISODES - count))))
        count += found[-1].n_episodes
        if count == EPISODES:
            break
    return concatenate(found).padded()


Changes = tuple[np.ndarray, np.ndarray]  # of observations `[n, K, N, O]`, and rewards `[n, K, N]`; NaN where none were


def _play(episodes: Episodes, environment: "VectorEnv") -> tuple[bool, Changes, Changes]:
    """Returns whether it was exact, the recorded changes, and those of the same actions; K = 1 if it was not exact."""
    first = torch.from_numpy(episodes.observations[:, :, 0])
    exact, parts = True, []
    for chosen in torch.split(torch.arange(len(first)), environment.episodes_at_once):
        seeds = chosen + (derive_seed(0, "replay") >> 2)
        restored = environment.reset_like(first[chosen])
        start = environment.reset(seeds) if restored is None else restored
        exact &= bool(torch.allclose(start, first[chosen], atol=1e-4))
        if not exact and environment.legal is not None:
            raise UserError(
                f"env={environment.spec.name} cannot be set to the first states of episodes, and legal actions depend "
                "on them, so nothing can be played again; leave env= out"
            )
        parts.append(_steps(start, episodes, chosen, environment))
    played = tuple(np.concatenate(part) for part in zip(*parts, strict=True))
    steps = played[1].shape[1]
    seen = episodes.observations.swapaxes(1, 2)[:, : steps + 1]
    recorded = np.diff(seen, axis=1), episodes.rewards.swapaxes(1, 2)[:, :steps].copy()
    over = np.arange(steps) >= episodes.length[:, None] - _unseen(episodes)[:, None]
    for array in (*recorded, *played):
        array[over] = np.nan
    counted = slice(None) if exact else slice(1)
    mine, theirs = ((changes[:, counted], rewards[:, counted]) for changes, rewards in (recorded, played))
    alike = np.isnan(theirs[1])  # steps after the environment's episode has ended
    mine[0][alike], mine[1][alike] = np.nan, np.nan
    return exact, mine, theirs


def _unseen(episodes: Episodes) -> np.ndarray:
    return np.zeros(episodes.n_episodes, dtype=int) if episodes.unseen_end is None else episodes.unseen_end.astype(int)


def _steps(start: Tensor, episodes: Episodes, chosen: Tensor, environment: "VectorEnv") -> Changes:
    """Returns the changes of observations and the rewards of up to K steps from `start`; NaN after an episode's end."""
    actions = torch.from_numpy(episodes.actions[chosen.numpy()])
    changes, rewards, seen = [], [], start
    over = torch.zeros(len(start), dtype=torch.bool)
    for t in range(min(STEPS, actions.shape[2])):
        if bool(over.all()):
            changes.append(torch.full_like(seen, torch.nan))
            rewards.append(torch.full(seen.shape[:2], torch.nan))
            continue
        result = environment.step(actions[:, :, t])
        changes.append(torch.where(over[:, None, None], torch.nan, result.observations - seen))
        rewards.append(torch.where(over[:, None], torch.nan, result.rewards))
        seen, over = result.observations, over | result.terminated | result.truncated
    return torch.stack(changes, 1).cpu().numpy(), torch.stack(rewards, 1).cpu().numpy()


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """The distance of two samples in the worst column, in standard errors of a sign test.

    Entries of a row followed the same actions, so they are compared in pairs: which one is larger, and which one is
    farther from the common median. The size of a difference does not count, because collisions are rare and large;
    rounding is not a difference.
    """
    there = ~np.isnan(one).reshape(len(one), -1).any(axis=1)
    a, b = (part[there].reshape(-1, part[0].size).astype(np.float64) for part in (one, other))
    centre = np.median(np.concatenate([a, b]), axis=0)
    worst = 0.0
    for difference in (a - b, np.abs(a - centre) - np.abs(b - centre)):
        sign = np.sign(np.where(np.abs(difference) > _ROUNDING * (1 + np.abs(a)), difference, 0.0))
        worst = max(worst, float(np.abs(sign.mean(axis=0)).max()) * len(a) ** 0.5)
    return worst
