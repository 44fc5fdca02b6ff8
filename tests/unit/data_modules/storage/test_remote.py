"""Shards behind HTTP: read and streamed as from a folder, over connections that break; what cannot be read is named."""

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_modules.storage import remote
from data_modules.storage.manifest import read_manifest
from data_modules.storage.remote import TRIES, open_remote
from data_modules.tools.inspect import describe
from data_modules.tools.verify import verify_dataset
from dof_lightning.errors import UserError
from tests.fixtures.dataset_files import build, make_episodes
from tests.fixtures.episode_data import keys, take
from tests.fixtures.http_server import Server, serve
from tests.fixtures.shard_reading import assert_same, read_all
from tests.fixtures.streamed_data import build_shards, make_stream, memory_for


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.001)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    build(tmp_path / "toy", make_episodes(50))
    return tmp_path / "toy"


@pytest.fixture(params=[True, False], ids=["ranges", "no ranges"])
def server(request: pytest.FixtureRequest, toy: Path) -> Iterator[Server]:
    with serve(toy.parent, ranges=request.param) as started:
        yield started


def test_a_dropped_connection_goes_on_at_the_byte_where_it_broke(toy: Path, server: Server) -> None:
    server.cuts = [3000, 1, 0]
    assert_same(read_all(f"{server.address}/toy"), read_all(toy))
    assert server.cuts == []
    parts = [asked for path, asked in server.asked if path.endswith("shard-000000.tar")]
    assert parts[0] is None
    assert parts[-1] == ("bytes=3001-" if server.ranges else "bytes=3000-")


def test_a_file_is_the_same_however_often_it_breaks(toy: Path, server: Server) -> None:
    shard = toy / "shard-000000.tar"
    server.cuts = [5000] * 8 if server.ranges else [*range(5000, 45000, 5000)]
    with open_remote(f"{server.address}/toy/{shard.name}") as file:
        assert file.read() == shard.read_bytes()


def test_it_is_given_up_with_one_line(toy: Path, server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.cuts = [2000] + [0] * 100
    with pytest.raises(UserError) as caught, caplog.at_level(logging.WARNING):
        read_all(f"{server.address}/toy")
    message = str(caught.value)
    assert f"{server.address}/toy/shard-000000.tar: the connection broke {TRIES} times" in message
    assert "\n" not in message
    assert sum(path.endswith("shard-000000.tar") for path, _ in server.asked) == TRIES
    assert "again in" in caplog.text


def test_a_server_that_is_busy_is_asked_again(toy: Path, server: Server) -> None:
    server.status = [503, 429, 500]
    assert_same(read_all(f"{server.address}/toy"), read_all(toy))


@pytest.mark.parametrize(("status", "words"), [(404, "missing"), (403, "credentials"), (400, "correct the address")])
def test_a_refusal_is_final(toy: Path, server: Server, status: int, words: str) -> None:
    server.status = [status] * 100
    with pytest.raises(UserError, match=rf"shard-000000\.tar.*{words}"):
        read_all(f"{server.address}/toy")
    assert len(server.status) == 99


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, toy: Path) -> None:
    with serve(toy.parent) as server:
        address = f"{server.address}/toy"
    with pytest.raises(UserError, match=r"dataset\.json: the connection broke"):
        read_manifest(address)


@pytest.mark.parametrize("kept", [0, 1, 512, 5000])
def test_a_truncated_shard_is_refused(server: Server, kept: int) -> None:
    server.kept = kept
    with pytest.raises(UserError, match=rf"shard-000000\.tar has {kept} bytes instead of \d+.*upload it again"):
        read_all(f"{server.address}/toy")
    assert sum(path.endswith("shard-000000.tar") for path, _ in server.asked) == 1


def test_a_changed_shard_is_refused(toy: Path, server: Server) -> None:
    shard = toy / "shard-000001.tar"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(UserError, match=r"shard-000001\.tar.*sha256.*upload it again"):
        read_all(f"{server.address}/toy")
    with pytest.raises(UserError, match=r"shard-000001\.tar was changed"):
        verify_dataset(f"{server.address}/toy", progress=False)


def test_verify_and_show_take_addresses(toy: Path, server: Server) -> None:
    server.cuts = [700]
    address = f"{server.address}/toy/"
    assert verify_dataset(address, progress=False) == verify_dataset(toy, progress=False)
    assert describe(address).title == describe(toy).title


@pytest.mark.parametrize("num_workers", [0, 2])
def test_streamed_windows_are_those_of_the_folder(tmp_path: Path, num_workers: int) -> None:
    build_shards(tmp_path / "shards")
    expected = [keys(batch) for batch in take(make_stream(tmp_path / "shards"), 30)]
    with serve(tmp_path) as server:
        server.cuts = [1500, None] * 5
        memory_mb = memory_for(tmp_path / "shards")
        address = f"{server.address}/shards"
        data = make_stream(address, num_workers=num_workers, memory_mb=memory_mb)  # held-out shards are read here
        assert [keys(batch) for batch in take(data, 30)] == expected
        assert server.cuts == []


def test_a_broken_stream_ends_with_one_line(tmp_path: Path) -> None:
    build_shards(tmp_path / "shards")
    with serve(tmp_path) as server:
        memory_mb = memory_for(tmp_path / "shards")
        data = make_stream(f"{server.address}/shards", num_workers=2, memory_mb=memory_mb)
        server.cuts = [0] * 1000
        with pytest.raises(UserError, match=r"\.tar: the connection broke"):
            take(data, 30)


def test_defects_are_not_taken_for_broken_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(*_: object) -> None:
        raise TypeError("ours")

    monkeypatch.setattr(remote, "_open_from", defect)
    with pytest.raises(TypeError, match="ours"):
        open_remote("http://127.0.0.1/x")


def test_a_remote_file_is_read_like_any_other(toy: Path, server: Server) -> None:
    with open_remote(f"{server.address}/toy/dataset.json") as file:
        assert isinstance(file, io.BufferedReader)
        whole = (toy / "dataset.json").read_bytes()
        assert [file.read(10), file.read()] == [whole[:10], whole[10:]]
        assert file.read() == b""
