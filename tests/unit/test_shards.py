"""Datasets on disk: what is written comes back, the same bytes each time, all or nothing, and damage is named."""

import io
import json
import multiprocessing
import os
import signal
import tarfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from small_dataset import build, make_environment, make_episodes

from data_modules.arrays import EpisodeRows, Episodes, concatenate, returns_to_go
from data_modules.manifest import read_manifest
from data_modules.order import is_heldout
from data_modules.shards import open_url, read_shard
from data_modules.store import write_dataset
from data_modules.verify import verify_dataset
from dof_lightning.errors import UserError
from dof_lightning.spec import fingerprint


def read_all(path: Path | str) -> EpisodeRows:
    manifest = read_manifest(path)
    blocks = [rows for shard in manifest.shards for rows in read_shard(manifest.url(shard), manifest.members, shard)]
    return concatenate(blocks)


def sorted_by_id(rows: EpisodeRows) -> EpisodeRows:
    return rows.select(np.argsort(rows.episode_id))


def assert_same(left: EpisodeRows, right: EpisodeRows) -> None:
    assert left.arrays().keys() == right.arrays().keys()
    for name, array in left.arrays().items():
        np.testing.assert_array_equal(array, right.arrays()[name], err_msg=name)


def shard_bytes(path: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted(path.glob("*.tar"))]


def rewrite_member(shard: Path, member: str, data: bytes) -> None:
    """Replaces a member of a tar, and keeps dataset.json's size in step so that the reader itself is tested."""
    with tarfile.open(shard) as old:
        files = [(info, old.extractfile(info).read()) for info in old.getmembers()]
    with tarfile.open(shard, "w", format=tarfile.USTAR_FORMAT) as new:
        for info, content in files:
            content = data if info.name == member else content
            info.size = len(content)
            new.addfile(info, io.BytesIO(content))
    update_size(shard)


def update_size(shard: Path) -> None:
    file = shard.parent / "dataset.json"
    document = json.loads(file.read_text())
    for entry in document["shards"]:
        if entry["name"] == shard.name:
            entry["n_bytes"] = shard.stat().st_size
    file.write_text(json.dumps(document))


def npy(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=allow_pickle)
    return stream.getvalue()


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("optional", [False, True])
def test_what_is_written_comes_back(tmp_path: Path, discrete: bool, optional: bool) -> None:
    episodes = make_episodes(50, discrete=discrete, optional=optional)
    manifest = build(tmp_path / "toy", episodes, discrete=discrete)
    rows = read_all(tmp_path / "toy")
    assert_same(sorted_by_id(rows), episodes.flatten())
    assert (manifest.n_episodes, manifest.n_steps) == (50, int(episodes.length.sum()))
    assert len(manifest.shards) == 3
    assert manifest.spec.environment == make_environment(discrete)
    assert manifest.spec.fingerprint == fingerprint({"data": "toy"})
    verify_dataset(tmp_path / "toy", progress=False)


def test_padding_and_flattening_are_inverse() -> None:
    rows = make_episodes(20).flatten()
    padded = rows.padded()
    assert_same(padded.flatten(), rows)
    for e, length in enumerate(padded.length):
        assert np.all(padded.observations[e, :, length:] == padded.observations[e, :, length, None])
        assert np.all(padded.rewards[e, :, length:] == 0)


def test_selecting_episodes_equals_selecting_them_padded() -> None:
    episodes, chosen = make_episodes(20), np.array([7, 3, 19, 3])
    arrays = {name: array[chosen] for name, array in episodes.arrays().items()}
    assert_same(episodes.flatten().select(chosen), Episodes(**arrays).flatten())


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    episodes = make_episodes(50)
    build(tmp_path / "once", episodes)
    build(tmp_path / "again", episodes)
    assert shard_bytes(tmp_path / "once") == shard_bytes(tmp_path / "again")
    documents = [(tmp_path / name / "dataset.json").read_bytes() for name in ("once", "again")]
    assert documents[0] == documents[1]


def test_bytes_do_not_depend_on_how_blocks_are_cut(tmp_path: Path) -> None:
    rows = make_episodes(50).flatten()
    parts = [rows.select(np.arange(a, b)).padded() for a, b in ((0, 9), (9, 30), (30, 50))]
    build(tmp_path / "whole", rows.padded())
    build(tmp_path / "cut", *parts)
    assert shard_bytes(tmp_path / "whole") == shard_bytes(tmp_path / "cut")


def test_episodes_are_permuted_by_seed(tmp_path: Path) -> None:
    episodes = make_episodes(200)
    orders = []
    for seed in (0, 1):
        build(tmp_path / str(seed), episodes, seed=seed)
        orders.append(read_all(tmp_path / str(seed)).episode_id)
    assert not np.array_equal(orders[0], orders[1])
    assert abs(np.corrcoef(orders[0], np.arange(200))[0, 1]) < 0.3
    assert set(orders[0]) == set(range(200))


def test_a_stream_larger_than_the_buffer_keeps_every_episode(tmp_path: Path) -> None:
    blocks = [make_episodes(20, seed=i, first_id=20 * i) for i in range(5)]
    build(tmp_path / "toy", *blocks, buffer_bytes=1)
    rows = concatenate([block.flatten() for block in blocks])
    assert_same(sorted_by_id(read_all(tmp_path / "toy")), rows)


@pytest.mark.parametrize("buffer_bytes", [1, 1 << 30])
def test_statistics_are_those_of_training_episodes(tmp_path: Path, buffer_bytes: int) -> None:
    blocks = [make_episodes(100, seed=i, first_id=100 * i) for i in range(3)]
    statistics = build(tmp_path / "toy", *blocks, buffer_bytes=buffer_bytes).spec.statistics
    rows = concatenate([block.flatten() for block in blocks])
    training = rows.select(np.flatnonzero(~is_heldout(torch.from_numpy(rows.episode_id)).numpy()))
    assert training.n_episodes < rows.n_episodes
    for measured, data in ((statistics.observations, training.observations), (statistics.actions, training.actions)):
        data = data.astype(np.float64)
        np.testing.assert_allclose(measured.mean, data.mean(0), atol=1e-6)
        np.testing.assert_allclose(measured.std, data.std(0), atol=1e-6)
        np.testing.assert_array_equal(measured.minimum, data.min(0).astype(np.float32))
        np.testing.assert_array_equal(measured.maximum, data.max(0).astype(np.float32))
        np.testing.assert_allclose(measured.knots, np.quantile(data, np.linspace(0, 1, 1001), axis=0), atol=1e-5)
    padded = training.padded()
    steps = np.arange(padded.rewards.shape[2])
    returns = padded.rewards.sum(2).mean(1)
    discounted = (padded.rewards * 0.9**steps).sum(2).mean(1)
    assert statistics.return_mean == pytest.approx(returns.mean(), abs=1e-5)
    assert statistics.return_std == pytest.approx(returns.std(), abs=1e-5)
    expected = np.quantile(discounted, np.linspace(0, 1, 1001))
    np.testing.assert_allclose(statistics.discounted_return_knots, expected, atol=1e-5)


def test_behaviour_returns_are_those_of_all_episodes(tmp_path: Path) -> None:
    episodes = make_episodes(80)
    manifest = build(tmp_path / "toy", episodes)
    returns = episodes.flatten().padded().rewards.sum(2).mean(1)
    assert manifest.behavior["name"] == "noise"
    assert manifest.behavior["return_mean"] == pytest.approx(returns.mean(), abs=1e-5)
    assert manifest.return_knots[0] == pytest.approx(returns.min(), abs=1e-5)


def test_returns_to_go_by_hand() -> None:
    rewards = np.array([[1.0], [2.0], [4.0], [8.0]], dtype=np.float32)
    result = returns_to_go(rewards, np.array([3, 1]), discount=0.5)
    np.testing.assert_allclose(result[:, 0], [1 + 1 + 1, 2 + 2, 4, 8])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda e: e.observations.__setitem__((0, 0, 0, 3), 1.0), "padded"),
        (lambda e: e.observations.__setitem__((0, 0, 0, 0), np.nan), "not finite"),
        (lambda e: e.actions.__setitem__((0, 0, 0, 0), 1.5), "magnitude"),
        (lambda e: e.length.__setitem__(0, 0), "length"),
    ],
)
def test_blocks_that_contradict_the_spec_are_refused(
    tmp_path: Path, change: Callable[[Episodes], None], words: str
) -> None:
    episodes = make_episodes(10)
    change(episodes)
    with pytest.raises(ValueError, match=words):
        build(tmp_path / "toy", episodes)
    assert not list(tmp_path.glob("*toy*/"))


def test_a_wrong_number_of_episodes_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="announced were 11"):
        build(tmp_path / "toy", make_episodes(10), n_episodes=11)
    assert not (tmp_path / "toy").exists()


# --- all or nothing -------------------------------------------------------------------------------------------------


def _stuck_build(path: Path) -> None:
    def blocks() -> Iterator[Episodes]:
        for i in range(4):
            yield make_episodes(50, seed=i, first_id=50 * i)
        (path.parent / "half_written").touch()
        time.sleep(600)

    environment = make_environment()
    write_dataset(
        path,
        name="toy_dataset",
        environment=environment,
        recipe={"data": "toy"},
        behavior={},
        blocks=blocks(),
        n_episodes=250,
        seed=0,
        episodes_per_sample=8,
        buffer_bytes=1,
    )


def _counted_build(path: Path) -> None:
    def blocks() -> Iterator[Episodes]:
        with (path.parent / "collections").open("a") as file:
            file.write("x")
        time.sleep(1.0)
        yield make_episodes(50)

    build_lazily = {"blocks": blocks(), "n_episodes": 50, "episodes_per_sample": 8}
    write_dataset(
        path,
        name="toy_dataset",
        environment=make_environment(),
        recipe={"data": "toy"},
        behavior={},
        seed=0,
        **build_lazily,
    )


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_build_leaves_nothing_that_looks_complete(tmp_path: Path) -> None:
    path = tmp_path / "toy"
    process = multiprocessing.get_context("fork").Process(target=_stuck_build, args=(path,))
    process.start()
    wait_for(lambda: (tmp_path / "half_written").exists())
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert list(tmp_path.glob(".toy.building/*.tar"))
    with pytest.raises(UserError, match="no such dataset"):
        read_manifest(path)
    episodes = make_episodes(30)
    build(path, episodes)
    assert_same(sorted_by_id(read_all(path)), episodes.flatten())
    assert not (tmp_path / ".toy.building").exists()


def test_two_builders_collect_once(tmp_path: Path) -> None:
    path, context = tmp_path / "toy", multiprocessing.get_context("fork")
    processes = [context.Process(target=_counted_build, args=(path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert (tmp_path / "collections").read_text() == "x"
    assert read_manifest(path).n_episodes == 50


def test_a_folder_with_another_dataset_is_refused(tmp_path: Path) -> None:
    build(tmp_path / "toy", make_episodes(10))
    with pytest.raises(UserError, match=r"another dataset.*delete"):
        build(tmp_path / "toy", make_episodes(10), recipe={"data": "other"})


# --- damage ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    build(tmp_path / "toy", make_episodes(50))
    return tmp_path / "toy"


def set_document(path: Path, **values: object) -> None:
    file = path / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: there is no such dataset"):
        read_manifest(tmp_path / "nowhere")


def test_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.json is missing"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'"x"', b"\xff\xfe", b'{"format_version": 1}'])
def test_corrupt_manifest(toy: Path, content: bytes) -> None:
    (toy / "dataset.json").write_bytes(content)
    with pytest.raises(UserError, match=r"dataset\.json is damaged"):
        read_manifest(toy)


def test_other_format_version(toy: Path) -> None:
    set_document(toy, format_version=7)
    with pytest.raises(UserError, match="format version 7, this program reads 1"):
        read_manifest(toy)


def test_recipe_changed_by_hand(toy: Path) -> None:
    set_document(toy, recipe={"data": "forged"})
    with pytest.raises(UserError, match="changed by hand"):
        read_manifest(toy)


def test_missing_shard(toy: Path) -> None:
    (toy / "shard-000001.tar").unlink()
    with pytest.raises(UserError, match=r"shard-000001\.tar is missing"):
        read_manifest(toy)


def test_truncated_shard_by_its_size(toy: Path) -> None:
    shard = toy / "shard-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"shard-000001\.tar has \d+ bytes instead of"):
        read_manifest(toy)


def test_truncated_shard_while_reading(toy: Path) -> None:
    """Cut anywhere, even between members, it is named; only the zeros behind the last member may go."""
    shard, whole = toy / "shard-000001.tar", read_all(toy)
    data = shard.read_bytes()
    messages = []
    for size in range(0, len(data), 512):
        shard.write_bytes(data[:size])
        update_size(shard)
        try:
            assert_same(read_all(toy), whole)
        except UserError as error:
            messages.append(str(error))
    assert len(messages) > 0.7 * len(data) / 512
    assert all("shard-000001.tar" in message and "\n" not in message for message in messages)


def test_shard_that_is_no_tar(toy: Path) -> None:
    shard = toy / "shard-000001.tar"
    shard.write_bytes(b"<html>not found</html>" * 100)
    update_size(shard)
    with pytest.raises(UserError, match=r"shard-000001\.tar"):
        read_all(toy)


def test_flipped_byte_is_found_by_verify(toy: Path) -> None:
    shard = toy / "shard-000001.tar"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(UserError, match=r"shard-000001\.tar was changed.*sha256"):
        verify_dataset(toy, progress=False)


def test_values_that_are_not_finite(toy: Path) -> None:
    rows = next(iter(read_shard(str(toy / "shard-000000.tar"), read_manifest(toy).members)))
    rows.rewards[0, 0] = np.inf
    rewrite_member(toy / "shard-000000.tar", "000000.rewards.npy", npy(rows.rewards))
    with pytest.raises(UserError, match=r"shard-000000\.tar: member 000000\.rewards\.npy.*not finite.*delete"):
        read_all(toy)


def test_member_of_another_shape(toy: Path) -> None:
    rewrite_member(toy / "shard-000000.tar", "000002.observations.npy", npy(np.zeros((3, 2, 4), np.float32)))
    with pytest.raises(UserError, match=r"000002\.observations\.npy is <f4 \[3, 2, 4\], expected"):
        read_all(toy)


def test_objects_are_refused_not_run(toy: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return (Path(toy / "exploded").touch, ())

    objects = npy(np.array([Bomb()], dtype=object), allow_pickle=True)
    rewrite_member(toy / "shard-000000.tar", "000000.rewards.npy", objects)
    with pytest.raises(UserError, match=r"000000\.rewards\.npy is no plain array"):
        read_all(toy)
    assert not (toy / "exploded").exists()


def test_other_members_are_never_decoded(toy: Path) -> None:
    shard = toy / "shard-000000.tar"
    with tarfile.open(shard, "a") as tar:
        info = tarfile.TarInfo("000000.evil.pkl")
        info.size = 4
        tar.addfile(info, io.BytesIO(b"\x80\x04N."))
    update_size(shard)
    assert read_all(toy).n_episodes == 50


@pytest.mark.parametrize("name", ["../secret.tar", "/etc/passwd", "a/../../b.tar"])
def test_shard_names_stay_in_the_folder(toy: Path, name: str) -> None:
    shards = json.loads((toy / "dataset.json").read_text())["shards"]
    set_document(toy, shards=[shards[0] | {"name": name}])
    with pytest.raises(UserError, match="leaves the dataset's folder"):
        read_manifest(toy)


@pytest.mark.parametrize("url", ["pipe:touch x", "pipe://touch x", "gs://a/b", "simplecache::http://a/b"])
def test_addresses_that_could_run_programs_are_refused(url: str) -> None:
    with pytest.raises(UserError):
        open_url(url)


def test_datasets_are_read_over_http(toy: Path) -> None:
    handler = partial(QuietHandler, directory=str(toy.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/toy"
        assert_same(read_all(address), read_all(toy))
        with pytest.raises(UserError, match=r"nowhere/dataset\.json is missing"):
            read_manifest(address.replace("toy", "nowhere"))
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def test_episode_twice(tmp_path: Path) -> None:
    build(tmp_path / "toy", make_episodes(10), make_episodes(10, seed=1))
    with pytest.raises(UserError, match="appears twice"):
        verify_dataset(tmp_path / "toy", progress=False)


def test_verify_doubts_terminals(tmp_path: Path) -> None:
    episodes = make_episodes(30)
    episodes.terminated[:] = False
    build(tmp_path / "none", episodes)
    assert "terminals may be missing" in verify_dataset(tmp_path / "none", progress=False).warnings[0]
    episodes.terminated[:] = True
    build(tmp_path / "all", episodes)
    assert "time limits may be stored as terminals" in verify_dataset(tmp_path / "all", progress=False).warnings[0]
    build(tmp_path / "mixed", make_episodes(30))
    assert verify_dataset(tmp_path / "mixed", progress=False).warnings == ()
