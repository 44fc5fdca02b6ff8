"""An agent's files are whole, or one line names the damaged file."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from dof_lightning.agent_names import file_names
from dof_lightning.deployment import load_agent
from dof_lightning.deployment.record import FORMAT_VERSION
from dof_lightning.diffusion import sampler
from dof_lightning.digest import KEY
from dof_lightning.errors import UserError
from tests.fixtures.agent_files import write_agents
from tests.fixtures.policy_models import cloning, small_dof_policy


def change_json(path: Path, **changes: Any) -> None:
    """Changes a json as an earlier version might have written it, without a seal."""
    path.write_text(json.dumps(without_seal(json.loads(path.read_text())) | changes))


def without_seal(record: dict[str, Any]) -> dict[str, Any]:
    """A json as version 0.1.0 wrote it."""
    return {key: value for key, value in record.items() if key != KEY} | {"format_version": 2}


def change_value(path: Path, depth: int) -> None:
    """A number of the structure becomes a list in lists."""
    value: Any = 0
    for _ in range(depth):
        value = [value]
    change_json(path, structure=changed(json.loads(path.read_text())["structure"], ("attributes", "candidates"), value))


def changed(node: Any, path: tuple, value: Any) -> Any:
    """Nested dicts and lists with one value changed."""
    if not path:
        return value
    new = dict(node) if isinstance(node, dict) else list(node)
    new[path[0]] = changed(node[path[0]], path[1:], value)
    return new


def values(node: Any, path: tuple = ()) -> Iterator[tuple]:
    """The places of every number, text and list in nested containers."""
    if isinstance(node, dict | list):
        for key in node if isinstance(node, dict) else range(len(node)):
            yield from values(node[key], (*path, key))
    if path and not isinstance(node, dict):
        yield path


def test_a_seal_that_is_owed_is_missed(tmp_path: Path) -> None:
    path = write_agents(tmp_path, small_dof_policy(**cloning()).policy())[1]
    change_json(path, format_version=FORMAT_VERSION)
    with pytest.raises(UserError, match="is damaged: seal is missing"):
        load_agent(path)


@pytest.mark.parametrize("with_digest", [True, False])
def test_no_changed_value_answers_otherwise_in_silence(tmp_path: Path, with_digest: bool) -> None:
    """A changed json with a digest is always refused; one without a digest, whenever it cannot act."""
    policy = small_dof_policy(**cloning(sampler=partial(sampler.DDIM, steps=1))).policy()
    path = write_agents(tmp_path, policy)[1]
    record = json.loads(path.read_text())
    if not with_digest:
        record = without_seal(record)
    believed = 0
    for where in values(record):
        for value in ([1], "x", None):
            if (damaged := changed(record, where, value)) == record:
                continue
            path.write_text(json.dumps(damaged))
            try:
                agent = load_agent(path)
            except UserError:
                continue
            believed += 1
            agent.reset(0)
            assert agent.act(torch.ones(2, 4)).shape == (2, 1)
    assert (believed == 0) == with_digest


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), r"agent_1\.json does not exist"),
        (lambda path: path.write_text("{"), r"agent_1\.json is damaged"),
        (lambda path: path.write_text("[]"), r"agent_1\.json does not describe an agent"),
        (lambda path: change_json(path, format="other"), r"agent_1\.json does not describe an agent"),
        (
            lambda path: change_json(path, format_version=9),
            r"format_version 9, .* reads 2, 3, 4; it was written by 0\.0\.9",
        ),
        (lambda path: change_json(path, weights_sha256="0"), r"agent_1\.safetensors is damaged.*sha256"),
        (lambda path: change_json(path, agent={}), r"agent_1\.json is damaged: agent\.name is missing"),
        (lambda path: path.write_text("[" * 100_000), r"agent_1\.json is damaged: .*nested too deep"),
        (lambda path: path.write_bytes(b"\xff\xfe"), r"agent_1\.json is damaged"),
        (lambda path: change_json(path, more=float("nan")), r"agent_1\.json is damaged: .*NaN is no number"),
        (
            lambda path: change_json(path, noise_shape=[4, 10.0, 2]),
            r"agent_1\.json is damaged: noise_shape\[1\] must be",
        ),
        (lambda path: change_json(path, noise_shape=[4, 11, 2]), r"agent_1\.json is damaged: .*cannot decide"),
        (lambda path: change_value(path, 900), r"agent_1\.json is damaged: .*nested too deep"),
        (
            lambda path: path.write_text(path.read_text().replace('"index": 1', '"index": 2')),
            r"damaged: .*not what was w",
        ),
        (lambda path: change_json(path, structure={"tensor": "missing"}), r"agent_1\.json: .*'missing'"),
        (lambda path: change_json(path, structure={"tensor": "action_mask"}), r"agent_1\.json: .*not a module"),
        (lambda path: path.with_suffix(".safetensors").unlink(), r"agent_1\.safetensors does not exist"),
        (lambda path: path.with_suffix(".safetensors").write_bytes(b"x"), r"agent_1\.safetensors is damaged"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, damage: Any, words: str) -> None:
    path = write_agents(tmp_path, small_dof_policy().policy())[1]
    damage(path)
    with pytest.raises(UserError, match=words):
        load_agent(path)


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (("agent_0", "agent_1"), ["agent_0", "agent_1"]),
        (("red 1", "a/b", ".."), ["red_1", "a_b", "_"]),
        (("a/b", "a b", "c"), ["a_b_0", "a_b_1", "c"]),
    ],
)
def test_every_agent_has_a_file_of_its_own(names: tuple[str, ...], files: list[str]) -> None:
    assert file_names(names) == files
