"""A checkpoint is whole, or it is one line: whichever bit or key of it was changed."""

import copy
import lzma
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.checkpoint import AtomicCheckpointIO, BestCheckpoint
from dof_lightning.checkpoints import checkpoint as checkpoints
from dof_lightning.checkpoints.checkpoint import Checkpoint
from dof_lightning.checkpoints.export import export_agents
from dof_lightning.checkpoints.overrides import override
from dof_lightning.deployment import load_agent
from dof_lightning.digest import sealed
from dof_lightning.errors import UserError
from tests.fixtures.workplace import ROOT

WRITTEN = ROOT / "tests/fixtures/written_by_0_1_0/runs/dof_policy_half/checkpoints/last.ckpt.xz"
NOTHING_ELSE = object()  # the key is taken away


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as version 0.1.0 wrote it, without a digest."""
    path = tmp_path_factory.mktemp("earlier") / "last.ckpt"
    path.write_bytes(lzma.decompress(WRITTEN.read_bytes()))
    return path


@pytest.fixture(scope="module")
def content(earlier: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(earlier, weights_only=True)
    return loaded


def test_what_is_saved_is_read_and_an_earlier_version_s_too(
    earlier: Path, content: dict[str, Any], tmp_path: Path
) -> None:
    AtomicCheckpointIO().save_checkpoint(content, tmp_path / "last.ckpt")
    ours, theirs = checkpoints.read(tmp_path / "last.ckpt"), checkpoints.read(earlier)
    assert ours.config == theirs.config
    assert ours.spec == theirs.spec
    assert all(torch.equal(ours.weights[name], weight) for name, weight in theirs.weights.items())
    assert AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt").keys() == content.keys()


@pytest.mark.parametrize("by_earlier_version", [False, True])
def test_a_bit_of_a_weight_is_not_another_weight(
    earlier: Path, content: dict[str, Any], tmp_path: Path, by_earlier_version: bool
) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(content, path)
    file = bytearray((earlier if by_earlier_version else path).read_bytes())
    weight = max(content["state_dict"].values(), key=torch.numel)
    file[file.index(weight.numpy().tobytes()) + 22] ^= 64
    path.write_bytes(file)
    for read in (checkpoints.read, AtomicCheckpointIO().load_checkpoint):
        with pytest.raises(UserError, match=r"last\.ckpt cannot be read") as refused:
            read(path)
        assert "\n" not in str(refused.value)


def test_another_number_under_an_old_digest_is_found(content: dict[str, Any], tmp_path: Path) -> None:
    torch.save(sealed(content) | {"global_step": 11}, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match="cannot be read, it is damaged"):
        checkpoints.read(tmp_path / "last.ckpt")


def keys(node: Any, deepest: int, path: tuple = ()) -> Iterator[tuple]:
    """The keys of nested dicts and lists, a group before its entries."""
    if path:
        yield path
    if len(path) < deepest and isinstance(node, dict | list):
        for key in node if isinstance(node, dict) else range(len(node)):
            yield from keys(node[key], deepest, (*path, key))


def changed(content: dict[str, Any], path: tuple, value: Any) -> dict[str, Any]:
    """A copy with one value changed, or taken away."""
    new = copy.copy(content)
    node: Any = new
    for key in path[:-1]:
        node[key] = copy.copy(node[key])
        node = node[key]
    if value is NOTHING_ELSE:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return new


@pytest.mark.parametrize(
    "value",
    [NOTHING_ELSE, None, "x", -1, 1.5, [], {"a": 1}],
    ids=["missing", "null", "text", "negative", "fraction", "list", "dict"],
)
def test_every_key_is_read_or_named(content: dict[str, Any], monkeypatch: pytest.MonkeyPatch, value: Any) -> None:
    """The file is as if rewritten by hand: its digest, if any, fits."""
    whole = {key: content[key] for key in ("global_step", "state_dict", "dof_lightning")}
    monkeypatch.setattr(checkpoints, "find_checkpoint", lambda path: path)
    raw = whole
    monkeypatch.setattr(checkpoints, "load_tensors", lambda path: raw)
    config, spec = (getattr(checkpoints.read(Path("a.ckpt")), name) for name in ("config", "spec"))
    read, named, failed = 0, 0, []
    for path in keys(whole, 5):
        if len(path) > 2 and path[0] == "state_dict":
            continue
        raw = changed(whole, path, value)
        try:
            checkpoint = checkpoints.read(Path("a.ckpt"))
            checkpoints.check_continues(checkpoint, config, spec)
            if path[2:3] in (("algorithm",), ("env",)) and value is NOTHING_ELSE and len(path) < 5:
                checkpoints.build_algorithm(checkpoint, override(checkpoint.config, []))  # takes time
            read += 1
        except UserError as error:
            named += "\n" not in str(error)
        except Exception as error:
            failed.append(f"{'.'.join(map(str, path))}: {type(error).__name__} {error}")
    assert not failed, "\n".join(failed)
    assert min(read, named) > 30


@pytest.mark.parametrize("value", [NOTHING_ELSE, None, "x", 1.5], ids=["missing", "null", "text", "fraction"])
@pytest.mark.parametrize("key", ["loops", "callbacks", "optimizer_states", "lr_schedulers", "global_step", "epoch"])
def test_what_lightning_needs_to_go_on_is_read_or_named(
    content: dict[str, Any], tmp_path: Path, key: str, value: Any
) -> None:
    torch.save(changed(content, (key,), value), tmp_path / "last.ckpt")
    with pytest.raises(
        UserError, match=rf"last\.ckpt cannot be read \({key} (is missing|must be .*)\); choose another"
    ):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")


@pytest.mark.parametrize("state", [{}, {"best_score": "x", "best_step": 1}, {"best_score": 1.0, "best_step": None}])
def test_a_best_score_is_a_number(tmp_path: Path, state: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"BestCheckpoint is damaged: best_s"):
        BestCheckpoint(tmp_path, "score", 1).load_state_dict(state)


def with_first_agent(whole: Checkpoint, name: str) -> Checkpoint:
    agents = list(whole.spec.environment.agents)
    agents[0] = replace(agents[0], name=name)
    environment = replace(whole.spec.environment, agents=tuple(agents))
    return replace(whole, spec=replace(whole.spec, environment=environment))


def test_agents_that_share_a_name_are_not_exported(earlier: Path, tmp_path: Path) -> None:
    """Data of earlier versions may name two agents alike: the second one's files replaced the first one's."""
    whole = checkpoints.read(earlier)
    renamed = with_first_agent(whole, whole.spec.environment.agents[1].name)
    with pytest.raises(UserError, match=rf"^env={whole.spec.environment.name}: agents 0 and 1 are both named"):
        export_agents(renamed, output=tmp_path / "agents")
    assert not (tmp_path / "agents").exists()


def test_an_agent_whose_name_is_no_files_is_exported_and_found_by_its_name(earlier: Path, tmp_path: Path) -> None:
    folder = export_agents(with_first_agent(checkpoints.read(earlier), "red a/b"), output=tmp_path / "agents")
    assert (folder / "red_a_b.json").exists()
    assert load_agent(folder, agent="red a/b").name == "red a/b"
