"""What contradicts the world or itself is refused in one line; nothing is left behind, above all nothing unreadable."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_modules.storage.arrays import Episodes
from dof_lightning.errors import UserError
from tests.fixtures.dataset_files import build, make_environment, make_episodes
from tests.fixtures.shard_reading import assert_same, read_all, sorted_by_id


def change(name: str, made: Callable[[np.ndarray], Any]) -> Callable[[Episodes], None]:
    """Replaces one array of a block."""
    return lambda episodes: setattr(episodes, name, made(getattr(episodes, name)))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda e: e.observations.__setitem__((0, 0, 0, 3), 1.0), "padded"),
        (lambda e: e.observations.__setitem__((0, 0, 0, 0), np.nan), "not finite"),
        (lambda e: e.actions.__setitem__((0, 0, 0, 0), 1.5), "magnitude"),
        (lambda e: e.length.__setitem__(0, 0), "length of episode 0 is 0"),
        (lambda e: e.length.__setitem__(3, 7), "length of episode 3 is 7, allowed are 1 to 6"),
        (lambda e: e.episode_id.__setitem__(slice(None), 4), "episode_id 4 stands for 10 episodes"),
        (change("observations", lambda a: a[:, :1]), r"observations: shape .* = \[10, 2, 7, 4\]"),
        (change("observations", lambda a: a[:, :, :-1]), r"expected \[n, N, L\+1, O\] .*set unseen_end"),
        (change("observations", lambda a: a[..., :3]), "observations: shape"),
        (change("actions", lambda a: a[..., :2]), "actions: shape"),
        (change("actions", lambda a: a[..., 0].astype(int)), r"actions: shape .*expected \[n, N, L, A\]"),
        (change("rewards", lambda a: a[:, 0]), "rewards: shape .*repeat a team's reward"),
        (change("terminated", lambda a: a[:-1]), "terminated: shape"),
        (change("terminated", lambda a: a + 1), "terminated: a value is neither"),
        (change("terminated", lambda a: a * np.nan), "terminated: a value is neither"),
        (change("terminated", lambda a: a.astype(str)), "terminated: type <U5, expected are true or false"),
        (change("legal", lambda a: a[..., :2]), "legal: shape"),
        (change("legal", lambda a: 3 * a), "legal: a value is neither"),
        (change("alive", lambda a: a[:, :, :-1]), "alive: shape"),
        (change("episode_id", lambda a: a / 2), "episode_id: type float64, expected are whole numbers"),
        (change("extra_actions", lambda a: a[:, :, :-1]), "extra_actions: shape"),
        (change("extra_rewards", lambda a: np.concatenate([a, a], axis=1)), "extra_rewards: shape"),
        (change("length", lambda a: a[:, None]), "length: shape"),
        (change("state", lambda a: a[..., 1:]), "state: shape"),
        (change("state", lambda a: None), r"state \[n, L\+1, 5\]: the array is missing.*state_dim=0"),
        (change("rewards", lambda a: None), "rewards: the array is missing"),
        (change("rewards", lambda a: a.tolist()), "rewards: must be a numpy array, not list"),
        (change("rewards", lambda a: np.full_like(a, 3e38)), "unreadable dataset"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_blocks_that_contradict_the_spec_are_refused(
    tmp_path: Path, wrong: Callable[[Episodes], None], words: str
) -> None:
    episodes = make_episodes(10)
    wrong(episodes)
    with pytest.raises(UserError, match=words) as raised:
        build(tmp_path / "toy", episodes, environment=make_environment())
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.glob("*toy*/"))


@pytest.mark.parametrize(
    ("name", "made", "words"),
    [
        ("observations", lambda a: a[:-1], r"observations: shape .*expected \[sum\(length\+1\), N, O\]"),
        ("rewards", lambda a: a[:-1], r"rewards: shape .*expected \[sum\(length\), N\]"),
        ("actions", lambda a: a[..., :1], "actions: shape"),
        ("state", lambda a: a[:, :1], "state: shape"),
        ("extra_observations", lambda a: a[:-1], "extra_observations: shape"),
        ("terminated", lambda a: 2 * a, "terminated: a value is neither"),
    ],
)
def test_episodes_end_to_end_are_checked_alike(
    tmp_path: Path, name: str, made: Callable[[np.ndarray], Any], words: str
) -> None:
    rows = make_episodes(10).flatten()
    with pytest.raises(UserError, match=words):
        build(tmp_path / "toy", replace(rows, **{name: made(getattr(rows, name))}))
    assert not list(tmp_path.glob("*toy*/"))


def test_a_state_that_the_world_does_not_have_is_refused(tmp_path: Path) -> None:
    world = replace(make_environment(), state_dim=0)
    with pytest.raises(UserError, match="a state is given, but the world has none"):
        build(tmp_path / "toy", make_episodes(10), environment=world)


def test_ends_and_choices_as_numbers_are_kept(tmp_path: Path) -> None:
    episodes = make_episodes(30)
    as_numbers = replace(episodes, terminated=episodes.terminated.astype(int), legal=1.0 * np.asarray(episodes.legal))
    build(tmp_path / "toy", as_numbers)
    assert_same(sorted_by_id(read_all(tmp_path / "toy")), episodes.flatten())


@pytest.mark.parametrize("buffer_bytes", [1, 1 << 30])
def test_ids_that_meet_only_across_blocks_are_refused(tmp_path: Path, buffer_bytes: int) -> None:
    blocks = [make_episodes(20, seed=i, first_id=19 * i) for i in range(3)]
    with pytest.raises(UserError, match=r"episode_id (19|38) stands for 2 episodes; give each an id of its own"):
        build(tmp_path / "toy", *blocks, buffer_bytes=buffer_bytes)
    assert not list(tmp_path.glob("*toy*/"))
