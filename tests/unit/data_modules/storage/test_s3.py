"""Shards in a bucket: moto's server on this machine, reached as users would reach any endpoint."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from data_modules.storage import remote
from data_modules.storage.remote import open_remote
from data_modules.tools.verify import verify_dataset
from dof_lightning.errors import UserError
from tests.fixtures.dataset_files import build, make_episodes
from tests.fixtures.episode_data import keys, take
from tests.fixtures.http_server import breaking_proxy
from tests.fixtures.shard_reading import assert_same, read_all
from tests.fixtures.streamed_data import build_shards, make_stream, memory_for

moto_server = pytest.importorskip("moto.server")
s3fs = pytest.importorskip("s3fs")


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = moto_server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture(autouse=True)
def bucket(port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket; environment variables say where it is and who we are."""
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.001)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    point_at(port, monkeypatch)
    system = fsspec.filesystem("s3")
    if system.exists("s3://data"):
        system.rm("s3://data", recursive=True)
    system.mkdir("s3://data")
    yield "s3://data"
    s3fs.S3FileSystem.clear_instance_cache()


def point_at(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    s3fs.S3FileSystem.clear_instance_cache()


def upload(folder: Path, bucket: str) -> str:
    fsspec.filesystem("s3").put(str(folder), bucket, recursive=True)
    return f"{bucket}/{folder.name}"


def test_a_bucket_is_read_like_a_folder(tmp_path: Path, bucket: str) -> None:
    build(tmp_path / "toy", make_episodes(50))
    address = upload(tmp_path / "toy", bucket)
    assert_same(read_all(address), read_all(tmp_path / "toy"))
    assert verify_dataset(address, progress=False) == verify_dataset(tmp_path / "toy", progress=False)


def test_streamed_windows_are_those_of_the_folder(tmp_path: Path, bucket: str) -> None:
    build_shards(tmp_path / "shards")
    expected = [keys(batch) for batch in take(make_stream(tmp_path / "shards"), 30)]
    address = upload(tmp_path / "shards", bucket)
    data = make_stream(address, num_workers=2, memory_mb=memory_for(tmp_path / "shards"))
    assert [keys(batch) for batch in take(data, 30)] == expected


def test_connections_that_break_are_made_again(
    tmp_path: Path, bucket: str, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "toy", make_episodes(50))
    address = upload(tmp_path / "toy", bucket)
    cuts = [1500, 3000, 0, 20_000, 100]
    with breaking_proxy(port, cuts) as proxy:
        point_at(proxy, monkeypatch)
        assert_same(read_all(address), read_all(tmp_path / "toy"))
    assert cuts == []


def test_a_truncated_shard_is_refused(tmp_path: Path, bucket: str) -> None:
    build(tmp_path / "toy", make_episodes(50))
    address = upload(tmp_path / "toy", bucket)
    fsspec.filesystem("s3").pipe(f"{address}/shard-000001.tar", b"x" * 1000)
    with pytest.raises(UserError, match=r"s3://data/toy/shard-000001\.tar has 1000 bytes instead of.*upload it again"):
        read_all(address)


def test_what_is_not_there_is_named(bucket: str) -> None:
    for address in (f"{bucket}/nowhere", "s3://no-such-bucket/toy"):
        with pytest.raises(UserError, match=rf"{address}/dataset\.json is missing"):
            read_all(address)


def test_missing_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_") and name != "AWS_ENDPOINT_URL"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(UserError, match=r"may not be read.*credentials"):
        open_remote("s3://data/x")


def test_the_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3")
    with pytest.raises(UserError, match=r"pip install -e '\.\[s3\]'"):
        open_remote("s3://data/x")
