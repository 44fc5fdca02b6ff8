"""Shards are read as they were written, from a folder or an address, and damage is named, not run."""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import tarfile
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from data_modules.storage.manifest import read_manifest
from data_modules.storage.shards import open_url, read_shard
from data_modules.tools.verify import verify_dataset
from dof_lightning.errors import UserError
from tests.fixtures.dataset_files import build, make_episodes, rewrite
from tests.fixtures.shard_reading import assert_same, read_all


def rewrite_member(shard: Path, member: str, data: bytes) -> None:
    """Replaces a member of a tar, and keeps dataset.json's size in step so that the reader itself is tested."""
    with tarfile.open(shard) as old:
        files = [(info, old.extractfile(info).read()) for info in old.getmembers()]
    with tarfile.open(shard, "w", format=tarfile.USTAR_FORMAT) as new:
        for info, content in files:
            content = data if info.name == member else content
            info.size = len(content)
            new.addfile(info, io.BytesIO(content))
    update_entry(shard)


def update_entry(shard: Path) -> None:
    data = shard.read_bytes()
    found = {"n_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    rewrite(
        shard.parent,
        lambda document: [entry.update(found) for entry in document["shards"] if entry["name"] == shard.name],
    )


def npy(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=allow_pickle)
    return stream.getvalue()


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    build(tmp_path / "toy", make_episodes(50))
    return tmp_path / "toy"


def set_document(path: Path, **values: object) -> None:
    rewrite(path, lambda document: document.update(values))


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: there is no such dataset"):
        read_manifest(tmp_path / "nowhere")


def test_missing_manifest(toy: Path) -> None:
    (toy / "dataset.json").unlink()
    with pytest.raises(UserError, match=r"dataset\.json is missing.*delete the folder"):
        read_manifest(toy)


def test_a_folder_of_datasets_and_a_file_are_never_to_be_deleted(toy: Path) -> None:
    with pytest.raises(
        UserError, match=f"has no dataset.json and no shards; correct data.path to one below it.*{toy}$"
    ):
        read_manifest(toy.parent, "data.path")
    (toy.parent / "mine.npz").touch()
    with pytest.raises(UserError, match=r"mine\.npz is a file, a dataset is a folder; .*dof data import"):
        read_manifest(toy.parent / "mine.npz")


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
        update_entry(shard)
        try:
            assert_same(read_all(toy), whole)
        except UserError as error:
            messages.append(str(error))
    assert len(messages) > 0.7 * len(data) / 512
    assert all("shard-000001.tar" in message and "\n" not in message for message in messages)


def test_shard_that_is_no_tar(toy: Path) -> None:
    shard = toy / "shard-000001.tar"
    shard.write_bytes(b"<html>not found</html>" * 100)
    update_entry(shard)
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
    with pytest.raises(UserError, match=r"000000\.rewards\.npy is not a plain array"):
        read_all(toy)
    assert not (toy / "exploded").exists()


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress], ids=["gzip", "bzip2", "xz"])
def test_compressed_shards_are_refused_before_anything_is_unpacked(toy: Path, pack: Callable[[bytes], bytes]) -> None:
    """A few kilobytes that expand to 8 MB, in a member that nobody wants: skipping it would unpack it all."""
    shard = toy / "shard-000000.tar"
    header = tarfile.TarInfo("000000.large.npy")
    header.size = 1 << 23
    shard.write_bytes(pack(header.tobuf() + bytes(header.size) + shard.read_bytes()))
    update_entry(shard)
    for read in (read_all, verify_dataset):
        with pytest.raises(
            UserError, match=r"shard-000000\.tar: it is compressed, and shards are plain tars; .*delete"
        ):
            read(toy)


def test_a_member_larger_than_the_manifest_allows_is_not_read(toy: Path) -> None:
    rows = 1 << 20
    rewrite_member(toy / "shard-000000.tar", "000000.rewards.npy", npy(np.zeros((rows, 2), np.float32)))
    with pytest.raises(UserError, match=r"member 000000\.rewards\.npy has \d+ bytes, at most \d+ are expected"):
        read_all(toy)


def test_a_sparse_member_is_not_expanded(toy: Path) -> None:
    """A header of 512 bytes that stands for 8 GB of zeros."""
    shard = toy / "shard-000000.tar"
    header = bytearray(tarfile.TarInfo("000000.rewards.npy").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[483:495] = b"%011o\0" % (1 << 33)
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    shard.write_bytes(bytes(header) + shard.read_bytes())
    update_entry(shard)
    with pytest.raises(UserError, match=r"member 000000\.rewards\.npy has 8589934592 bytes, at most"):
        read_all(toy)


def test_more_bytes_than_the_manifest_says_are_not_read(toy: Path) -> None:
    manifest = read_manifest(toy)
    shard = toy / "shard-000000.tar"
    shard.write_bytes(shard.read_bytes() + bytes(1 << 20))
    with pytest.raises(UserError, match=r"shard-000000\.tar: it has more than its \d+ bytes"):
        list(read_shard(str(shard), manifest.members, manifest.shards[0]))


def test_other_members_are_never_decoded(toy: Path) -> None:
    shard = toy / "shard-000000.tar"
    with tarfile.open(shard, "a") as tar:
        info = tarfile.TarInfo("000000.evil.pkl")
        info.size = 4
        tar.addfile(info, io.BytesIO(b"\x80\x04N."))
    update_entry(shard)
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


def test_episode_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_modules.storage.disk_order._check_ids", lambda ids: None)  # as earlier versions wrote
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
