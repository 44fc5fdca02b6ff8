"""Episodes of one's own, as one file of arrays."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_modules.convert.importing import import_dataset
from data_modules.storage.action_units import units_of
from data_modules.storage.manifest import read_manifest
from data_modules.tools.verify import verify_dataset
from dof_lightning.cli import main as cli
from dof_lightning.errors import UserError
from dof_lightning.spec import AgentSpec, EnvSpec
from tests.fixtures.shard_reading import assert_same, read_all, sorted_by_id

SEEN, ACTED = np.array([3, 4, 6, 5]), np.array([1, 2, 3, 2])
N, STEPS = 60, 12


def arrays(**changes: Any) -> dict[str, Any]:
    """Four unlike agents, actions in [-2, 2], episodes of many lengths; rubbish behind their ends."""
    rng = np.random.default_rng(0)
    length = rng.integers(2, STEPS + 1, N)
    observations = rng.normal(size=(N, 4, STEPS + 1, 6)) * (np.arange(6) < SEEN[:, None])[:, None]
    actions = rng.uniform(-2, 2, (N, 4, STEPS, 3)) * (np.arange(3) < ACTED[:, None])[:, None]
    made = {
        "observations": observations,
        "actions": actions,
        "rewards": rng.normal(size=(N, 4, STEPS)),
        "terminated": length < STEPS,
        "length": length,
        "observation_dims": SEEN,
        "action_dims": ACTED,
        "agents": np.array(["cook", "waiter", "guest", "cat"]),
        "action_low": -2.0,
        "action_high": 2.0,
    }
    return {name: value for name, value in (made | changes).items() if value is not None}


def choices(**changes: Any) -> dict[str, Any]:
    """The same with choices as actions, which have no range."""
    actions = np.random.default_rng(2).integers(0, ACTED[:, None], (N, 4, STEPS))
    return {"actions": actions, "action_low": None, "action_high": None} | changes


def save(path: Path, **changes: Any) -> Path:
    np.savez(path / "mine.npz", **arrays(**changes))
    return path / "mine.npz"


def test_choices_behind_an_episodes_end_do_not_count(tmp_path: Path) -> None:
    rng, made = np.random.default_rng(0), arrays()
    actions = rng.integers(0, 3, (N, 4, STEPS))
    actions[(np.arange(STEPS) >= made["length"][:, None])[:, None].repeat(4, 1)] = 255
    nothing = dict.fromkeys(("action_dims", "action_low", "action_high"))
    path = import_dataset("npz", save(tmp_path, actions=actions, **nothing), "mine", tmp_path)
    assert {agent.action_dim for agent in read_manifest(path).spec.environment.agents} == {3}


def nan_at(episode: int, agent: int, step: int) -> np.ndarray:
    observations = arrays()["observations"]
    observations[episode, agent, step, 0] = np.nan
    return observations


def test_every_number_arrives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = save(tmp_path)
    cli.run(["data", "import", "format=npz", f"source={file}", "name=mine", f"data.root={tmp_path}"])
    path = Path(capsys.readouterr().out.splitlines()[-1])
    spec, rows, mine = read_manifest(path).spec, sorted_by_id(read_all(path)), arrays()
    agents = spec.environment.agents
    assert [agent.name for agent in agents] == ["cook", "waiter", "guest", "cat"]
    assert [agent.observation_dim for agent in agents] == SEEN.tolist()
    assert [agent.action_dim for agent in agents] == ACTED.tolist()
    assert units_of(spec.environment).high[2].tolist() == [2.0, 2.0, 2.0]
    np.testing.assert_array_equal(rows.length, mine["length"])
    np.testing.assert_array_equal(rows.terminated, mine["terminated"])
    taken = np.arange(STEPS) < mine["length"][:, None]
    for name, scale in (("actions", 2.0), ("rewards", 1.0)):
        np.testing.assert_allclose(scale * getattr(rows, name), mine[name].swapaxes(1, 2)[taken], atol=1e-6)
    seen = np.arange(STEPS + 1) <= mine["length"][:, None]
    np.testing.assert_allclose(rows.observations, mine["observations"].swapaxes(1, 2)[seen], atol=1e-6)
    assert not verify_dataset(path, progress=False).warnings


def test_a_teams_reward_and_no_lengths(tmp_path: Path) -> None:
    rewards = np.random.default_rng(1).normal(size=(N, STEPS))
    path = import_dataset("npz", save(tmp_path, rewards=rewards, length=None), "mine", tmp_path)
    rows = sorted_by_id(read_all(path))
    assert set(rows.length) == {STEPS}
    np.testing.assert_allclose(rows.rewards, np.repeat(rewards.reshape(-1, 1), 4, axis=1), atol=1e-6)


def test_observations_without_the_last(tmp_path: Path) -> None:
    seen = arrays()["observations"][:, :, :-1]
    rows = sorted_by_id(read_all(import_dataset("npz", save(tmp_path, observations=seen), "mine", tmp_path)))
    assert rows.arrays()["unseen_end"].all()
    ends = np.cumsum(rows.length + 1) - 1
    np.testing.assert_array_equal(rows.observations[ends], rows.observations[ends - 1])
    taken = np.arange(STEPS) < arrays()["length"][:, None]
    kept = np.setdiff1d(np.arange(len(rows.observations)), ends)
    np.testing.assert_allclose(rows.observations[kept], seen.swapaxes(1, 2)[taken], atol=1e-6)


def test_choices_with_what_is_legal_and_alive(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    changes = {
        "actions": rng.integers(0, ACTED[:, None], (N, 4, STEPS)),
        "legal": np.broadcast_to((np.arange(3) < ACTED[:, None])[:, None], (N, 4, STEPS + 1, 3)),
        "alive": rng.random((N, 4, STEPS + 1)) < 0.8,
        "state": rng.normal(size=(N, STEPS + 1, 7)),
        "action_low": None,
        "action_high": None,
    }
    path = import_dataset("npz", save(tmp_path, **changes), "mine", tmp_path)
    spec, rows = read_manifest(path).spec, sorted_by_id(read_all(path))
    assert (spec.action_kind, spec.state_dim, spec.action_dim) == ("discrete", 7, 3)
    taken = np.arange(STEPS) < arrays()["length"][:, None]
    np.testing.assert_array_equal(rows.actions, changes["actions"].swapaxes(1, 2)[taken])


def test_a_world_of_ones_own(tmp_path: Path) -> None:
    agents = tuple(map(AgentSpec, ["cook", "waiter", "guest", "cat"], SEEN.tolist(), ACTED.tolist()))
    said = [{"low": [-2.0] * a.action_dim, "high": [2.0] * a.action_dim} for a in agents]
    world = EnvSpec("kitchen", agents, "continuous", 20, 0, {"family": "pettingzoo", "actions": said})
    path = import_dataset("npz", save(tmp_path), "mine", tmp_path, world)
    assert read_manifest(path).spec.environment == world
    fewer = {name: value[:, :3] for name, value in arrays().items() if name in ("observations", "actions", "rewards")}
    fewer |= {name: value[:3] for name, value in arrays().items() if name.endswith("_dims") or name == "agents"}
    swapped = save(tmp_path, agents=np.array(["waiter", "cook", "guest", "cat"]))
    with pytest.raises(UserError, match=r"agents are waiter, cook, guest, cat, but in kitchen cook, waiter, .*order"):
        import_dataset("npz", swapped, "swapped", tmp_path, world)
    with pytest.raises(UserError, match="agents 3 instead of 4"):
        import_dataset("npz", save(tmp_path, **fewer), "other", tmp_path, world)
    small = [{"low": [-1.0] * a.action_dim, "high": [1.0] * a.action_dim} for a in agents]
    other = EnvSpec("kitchen", agents, "continuous", 20, 0, {"family": "pettingzoo", "actions": small})
    with pytest.raises(UserError, match=r"declares actions in \[-2, 2\], env=kitchen acts in \[-1, 1\]"):
        import_dataset("npz", save(tmp_path), "other", tmp_path, other)
    uneven = EnvSpec("kitchen", agents, "continuous", 20, 0, {"family": "pettingzoo", "actions": [*said[:3], small[3]]})
    with pytest.raises(
        UserError, match=r"in \[-2, 2\] in dimension 0 of agent 'cat', env=kitchen acts in \[-1, 1\] there; s"
    ):
        import_dataset("npz", save(tmp_path), "other", tmp_path, uneven)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"rewards": None}, "has no rewards"),
        ({"reward": np.zeros(3)}, "unknown arrays: reward"),
        ({"action_high": None}, "come together"),
        ({"action_low": -1.0, "action_high": 1.0}, r"is not within -1 to 1; specify .*action_range="),
        ({"action_low": np.zeros((3, 3)), "action_high": np.ones((3, 3))}, "must be numbers"),
        ({"action_low": None, "action_high": None}, r"is not within -1 to 1; specify .*action_range="),
        ({"length": np.full(N, STEPS + 1)}, r"length of episode 0 is 13"),
        ({"length": np.full(N, 2.5)}, r"length of episode 0 is 2\.5"),
        ({"terminated": np.zeros(N - 1, bool)}, r"terminated has shape \[59\]"),
        ({"observations": np.zeros((N, 4, STEPS + 3, 6))}, "observations have 15 rows and actions 12"),
        ({"observations": np.zeros((N, 4, 6))}, r"observations has shape"),
        ({"observations": np.ones((N, 4, STEPS + 1, 6))}, "padded dimensions are not zero"),
        ({"actions": np.zeros((N, 4, STEPS))}, "or whole numbers"),
        (
            {"rewards": np.full((N, 4, STEPS), np.nan)},
            "rewards of episode 0, step 0, agent .cook.: a value is not finite",
        ),
        (
            {"observations": nan_at(41, 2, 1)},
            "observations of episode 41, step 1, agent .guest.: a value is not finite",
        ),
        ({"terminated": np.array(["False"] * N)}, r"terminated has values of type <U5, expected are numbers"),
        ({"terminated": np.full(N, np.nan)}, r"terminated, row 0: nan is neither true \(1\) nor false \(0\)"),
        ({"terminated": np.arange(N) / N}, r"terminated, row 1: 0\.0166667 is neither"),
        ({"legal": np.full((N, 4, STEPS + 1, 3), np.nan)}, r"legal, row 0: nan is neither"),
        ({"alive": np.full((N, 4, STEPS + 1), "True")}, "alive has values of type <U4, expected are numbers"),
        ({"rewards": np.full((N, 4, STEPS), "1.5")}, "rewards has values of type <U3, expected are numbers"),
        ({"length": np.full(N, "12")}, "length has values of type <U2, expected are numbers"),
        ({"action_low": "-2"}, "action_low has values of type <U2, expected are numbers"),
        ({"action_dims": np.full(4, np.nan)}, "action_dims have type float64, expected are whole numbers"),
        (choices(action_low=-2.0, action_high=2.0), "action_low is a range of numbers, but actions are choices"),
        (choices(action_high=2.0), "action_high is a range of numbers"),
        ({"observations": np.zeros((0, 4, STEPS + 1, 6))}, "observations are of 0 episodes and 4 agents"),
        (
            {"observations": np.zeros((N, 0, STEPS + 1, 6)), "actions": np.zeros((N, 0, STEPS, 3))},
            "observations are of 60 episodes and 0 agents",
        ),
        ({"observation_dims": SEEN - 1}, "largest of observation_dims"),
        ({"agents": np.array(["a", "b", "a", "c"])}, r"mine\.npz: agents 0 and 2 are both named 'a'; rename one"),
        ({"agents": np.array(["a", None, "b", "c"], dtype=object)}, "plain arrays"),
    ],
)
def test_faults_are_one_line(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as raised:
        import_dataset("npz", save(tmp_path, **changes), "mine", tmp_path)
    assert "\n" not in str(raised.value)
    assert [file.name for file in tmp_path.iterdir() if not file.name.startswith(".mine")] == ["mine.npz"]


def test_truth_may_be_numbers_and_what_is_behind_an_end_anything(tmp_path: Path) -> None:
    behind = (np.arange(STEPS + 1) > arrays()["length"][:, None])[:, None]
    alive = np.random.default_rng(3).random((N, 4, STEPS + 1)) < 0.8
    changes = {"alive": np.where(behind, np.nan, alive), "terminated": arrays()["terminated"].astype(int)}
    numbers = read_all(import_dataset("npz", save(tmp_path, **changes), "numbers", tmp_path))
    truths = read_all(import_dataset("npz", save(tmp_path, alive=alive), "truths", tmp_path))
    assert_same(sorted_by_id(numbers), sorted_by_id(truths))


def test_a_state_of_no_width_is_no_state(tmp_path: Path) -> None:
    path = import_dataset("npz", save(tmp_path, state=np.zeros((N, STEPS + 1, 0))), "mine", tmp_path)
    assert read_manifest(path).spec.state_dim == 0
    assert "state" not in read_manifest(path).members


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut off"])
def test_what_is_no_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mine.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"mine\.npz is not an \.npz file"):
        import_dataset("npz", tmp_path / "mine.npz", "mine", tmp_path)
