"""`dataset.json` is read against a schema: whatever is changed in it, the answer is one line and no other dataset."""

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_modules.storage.manifest import read_manifest
from data_modules.storage.store import Description, write_dataset
from dof_lightning.digest import KEY, unsealed
from dof_lightning.errors import UserError
from tests.fixtures.dataset_files import build, make_environment, make_episodes, rewrite

WRONG = (None, True, -1, 0, 0.5, 10**30, "x", "", [], {}, [None], float("nan"), float("inf"))
# Keys that a reader cannot miss: what anybody may name as he likes, and arrays that a dataset need not have.
MAY_BE_ABSENT = {
    *("recipe", "behavior", "reference", "own_reference"),
    *("state", "legal", "alive", "extra_observations", "extra_actions", "extra_rewards"),
}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One of continuous and one of discrete actions."""
    folder = tmp_path_factory.mktemp("manifests")
    for discrete in (False, True):
        build(folder / str(discrete), make_episodes(30, discrete=discrete), discrete=discrete)
    return [folder / "False", folder / "True"]


def places(node: Any, path: tuple = ()) -> Iterator[tuple]:
    """Every key, and the first and last entry of every list."""
    items = enumerate(node) if isinstance(node, list) else node.items() if isinstance(node, dict) else ()
    for key, value in items:
        if not isinstance(key, int) or key in (0, len(node) - 1):
            yield (*path, key)
            yield from places(value, (*path, key))


def changed(document: dict, place: tuple, *values: Any) -> dict:
    """Another value at a place, or none."""
    copied = copy.deepcopy(document)
    node: Any = copied
    for key in place[:-1]:
        node = node[key]
    if values:
        node[place[-1]] = values[0]
    else:
        del node[place[-1]]
    return copied


def complaint(folder: Path, document: Any) -> str | None:
    """The reader's complaint about a document, in one line; None if it accepts it."""
    file = folder / "dataset.json"
    before = file.read_bytes()
    file.write_text(json.dumps(document))
    said = None
    try:
        read_manifest(folder)
    except UserError as error:
        said = str(error)
    finally:
        file.write_bytes(before)
    assert said is None or (said.startswith(str(folder)) and "\n" not in said)
    return said


def test_no_change_gets_past_the_seal(datasets: list[Path]) -> None:
    for folder in datasets:
        document = json.loads((folder / "dataset.json").read_text())
        assert KEY in document
        assert KEY not in unsealed(document)
        assert complaint(folder, document) is None
        for place in places(document):
            if place != (KEY,):
                assert complaint(folder, changed(document, place)), place
                assert complaint(folder, changed(document, place, 1.25)), place


def test_no_change_of_an_unsealed_one_is_a_traceback(datasets: list[Path]) -> None:
    """Files of version 0.1.0 have no seal: only the schema stands between a changed field and training."""
    tried = 0
    for folder in datasets:
        document = json.loads((folder / "dataset.json").read_text())
        del document[KEY]
        assert complaint(folder, document) is None
        for place in places(document):
            for value in WRONG[tried % 3 :: 3]:  # every place sees a third of them
                complaint(folder, changed(document, place, value))
            tried += 1
            if not set(place) & MAY_BE_ABSENT:
                assert complaint(folder, changed(document, place)), place
    assert tried > 150


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(n_episodes=31), "n_episodes is 31, the shards contain 30"),
        (lambda d: d.update(n_steps=d["n_steps"] + 1), "n_steps is .*, the shards contain"),
        (lambda d: d.update(n_episodes=-30), "n_episodes must be an integer of at least 1, got -30"),
        (lambda d: d["shards"][0].update(n_episodes=8.0), r"shards\[0\]\.n_episodes must be an integer .* got 8\.0"),
        (lambda d: d["shards"][0].update(n_training_windows=10**6), "n_training_windows is 1000000 of"),
        (lambda d: d["shards"][0].update(sha256="x" * 64), r"shards\[0\]\.sha256 must be 64 hexadecimal digits"),
        (lambda d: d["shards"].append(d["shards"][0]), "is listed twice"),
        (lambda d: d.update(shards=[]), "shards must be a list, at least 1 long"),
        (lambda d: d.update(discount="x"), "discount must be a finite number of at least 0 and at most 1, got 'x'"),
        (
            lambda d: d["recipe"].update(format_version=1, discount=0.5),
            "discount must be the recipe's value .0.5., got 0.9",
        ),
        (lambda d: d.update(longest=7), "longest is 7, the environment's horizon 6"),
        (lambda d: d["environment"].update(horizon=5), "longest is 6, the environment's horizon 5"),
        (
            lambda d: d["environment"].update(state_dim=4),
            r"members\.state is <f4 \[5\], the environment has <f4 \[4\]",
        ),
        (lambda d: d["environment"].update(action_kind="discrete"), r"members\.actions is <f4 \[2, 3\]"),
        (lambda d: d["environment"]["agents"][0].update(observation_dim=-3), "observation_dim must be an integer"),
        (lambda d: d["environment"]["agents"].pop(), r"members\.observations is"),
        (lambda d: d["environment"]["reference"].update(expert=0.0), "random and expert of a reference are both"),
        (lambda d: d["members"].pop("rewards"), r"members\.rewards is missing"),
        (lambda d: d["members"]["rewards"].update(dtype="|O"), r"members\.rewards is \|O \[2\], the environment has"),
        (lambda d: d["members"]["extra_actions"].update(dtype="|O"), r"members\.extra_actions cannot be"),
        (lambda d: d["members"].update(evil={"dtype": "<f4", "shape": [1]}), r"members\.evil is an unknown array"),
        (lambda d: d["statistics"]["observations"]["mean"].pop(), r"observations\.mean has shape \[1, 4\], expected"),
        (lambda d: d["statistics"]["observations"]["std"][0].__setitem__(0, -1.0), r"std\[0\]\[0\] must be a finite"),
        (lambda d: d["statistics"].update(actions=None), "statistics.actions do not fit continuous actions"),
        (lambda d: d["return_knots"].update(shape=[7]), "return_knots does not contain numbers of its shape"),
        (lambda d: d["behavior"].update(return_mean=None), r"behavior\.return_mean must be a finite number"),
        (lambda d: d["behavior"].update(win_rate=55.0), r"behavior\.win_rate must be .* at most 1, got 55\.0"),
    ],
)
def test_what_contradicts_itself_is_named(tmp_path: Path, change: Any, words: str) -> None:
    build(tmp_path / "toy", make_episodes(30))
    rewrite(tmp_path / "toy", change)
    with pytest.raises(UserError, match=rf"dataset\.json is damaged \(.*{words}.*build the dataset again"):
        read_manifest(tmp_path / "toy")


@pytest.mark.parametrize("recipe", [{"environment": "my_world"}, {"discount": 0.5}])
def test_a_recipe_and_a_behavior_of_ones_own_say_what_they_like(tmp_path: Path, recipe: Any) -> None:
    """They were refused once everything was written, and no longer read where an earlier version had written them."""
    manifest = build(tmp_path / "toy", make_episodes(30), recipe=recipe, behavior={"win_rate": None})
    assert manifest.spec.recipe.items() > recipe.items()
    assert manifest.behavior["win_rate"] is None


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"recipe": {"format_version": 1, "discount": 0.5}}, r"discount must be the recipe's value .0\.5., got 0\.9"),
        ({"recipe": {"format_version": 1, "environment": "my_world"}}, "environment must be the recipe's .*my_world"),
        (
            {"behavior": {"win_rate": "high"}},
            r"behavior\.win_rate must be a finite number of at least 0 and at most 1, got 'high'",
        ),
        ({"behavior": {"win_rate": 55.0}}, r"behavior\.win_rate must be a finite number .* at most 1, got 55\.0"),
        ({"behavior": {"noise": float("nan")}}, "not JSON compliant"),
        ({"behavior": {"weights": {1, 2}}}, "set is not JSON serializable"),
        ({"discount": 1.5}, "discount must be a finite number of at least 0 and at most 1, got 1.5"),
    ],
)
def test_what_nobody_could_read_is_refused_before_an_episode_is_made(tmp_path: Path, told: Any, words: str) -> None:
    def blocks() -> Iterator[Any]:
        raise AssertionError("an episode was asked for")
        yield

    environment = make_environment()
    description = Description(**({"name": "toy", "environment": environment, "recipe": {}, "behavior": {}} | told))
    if "recipe" in told:
        description = replace(description, discount=0.9)
    with pytest.raises(UserError, match=rf"toy cannot be described like this \(.*{words}"):
        write_dataset(tmp_path / "toy", description, blocks=blocks(), n_episodes=1, seed=0)
    assert not list(tmp_path.iterdir())


def test_agents_that_share_a_name_are_refused_before_an_episode_is_made(tmp_path: Path) -> None:
    environment = make_environment()
    agents = tuple(replace(agent, name="a") for agent in environment.agents)
    with pytest.raises(UserError, match="toy: agents 0 and 1 are both named 'a'; rename one"):
        build(tmp_path / "toy", make_episodes(10), environment=replace(environment, agents=agents))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b'{"discount": NaN}', b"[" * 100_000, b"9" * 10_000])
def test_what_is_hardly_json_is_damaged(datasets: list[Path], tmp_path: Path, content: bytes) -> None:
    (tmp_path / "dataset.json").write_bytes(content)
    with pytest.raises(UserError, match=r"dataset\.json is damaged"):
        read_manifest(tmp_path)
