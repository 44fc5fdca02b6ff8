"""The shard format: WebDataset tars whose samples are several episodes end to end, `.npy` members only.

Every file is opened by fsspec or by us and handed to WebDataset as a file object: its own URL openers can start
programs and its default decoders can run code, so neither is ever used.
"""

import io
import math
import os
import sys
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from data_modules.storage.arrays import EPISODE_ARRAYS, ROW_ARRAYS, STEP_ARRAYS, DataFault, EpisodeRows
from data_modules.storage.hashing import READ_BYTES, ReadHashed, WrittenHashed
from data_modules.storage.remote import open_remote
from dof_lightning.errors import UserError
from dof_lightning.spec import EnvSpec

os.environ["WDS_SECURE"] = "1"  # read at webdataset's import, which is deferred because it imports torch

PROTOCOLS = ("", "file", "http", "https", "s3")

_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # the first bytes of gzip, bzip2, xz and zstd
_HEADER_BYTES = 1 << 14  # largest header of a .npy file

_REPAIR = "the file is damaged: delete the dataset's folder and build (or download) it again"
_REPAIR_COPY = "the copy at this address is damaged: upload it again"


@dataclass(frozen=True)
class Member:
    """One array of a sample.

    Attributes:
        dtype: numpy's name of the element type, little-endian, e.g. `<f4`.
        shape: the dimensions after that of rows, steps or episodes, e.g. `(N, O)`.
    """

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ShardEntry:
    """One shard as `dataset.json` lists it.

    Attributes:
        name: file name within the dataset's folder.
        n_episodes: number of its episodes.
        n_steps: number of its environment steps.
        n_training_windows: number of its training windows: one per step of the episodes that are not held out.
        n_bytes: size of the file.
        sha256: the file's sha256, hexadecimal.
    """

    name: str
    n_episodes: int
    n_steps: int
    n_training_windows: int
    n_bytes: int
    sha256: str


def known_members(environment: EnvSpec) -> dict[str, Member]:
    """The arrays whose types and shapes an environment decides, by name."""
    n, observation, action = environment.n_agents, environment.observation_dim, environment.action_dim
    discrete = environment.action_kind == "discrete"
    return {
        "observations": Member("<f4", (n, observation)),
        "actions": Member("<i8", (n,)) if discrete else Member("<f4", (n, action)),
        "rewards": Member("<f4", (n,)),
        "terminated": Member("|b1", ()),
        "length": Member("<i4", ()),
        "episode_id": Member("<i8", ()),
        "unseen_end": Member("|b1", ()),
        "state": Member("<f4", (environment.state_dim,)),
        "legal": Member("|b1", (n, action)),
        "alive": Member("|b1", (n,)),
    }


def expected_members(rows: EpisodeRows, environment: EnvSpec) -> dict[str, Member]:
    """The members of a dataset of this environment, with the optional arrays that `rows` contains."""
    known = known_members(environment)
    others = {  # of agents that are not learned
        name: Member("<i8" if array.dtype.kind == "i" else "<f4", array.shape[1:])
        for name, array in rows.arrays().items()
    }
    return {name: known.get(name, other) for name, other in others.items()}


def write_shards(
    folder: Path, samples: Iterable[EpisodeRows], environment: EnvSpec, samples_per_shard: int
) -> tuple[dict[str, Member], tuple[ShardEntry, ...]]:
    """Writes samples into `shard-000000.tar`, ...; returns the members of every sample, and the shards.

    The same samples give the same bytes.

    Args:
        folder: an existing, empty folder.
        samples: blocks of several episodes.
        environment: defines the types and shapes of the arrays.
        samples_per_shard: number of samples in each shard but the last.

    Raises:
        DataFault: an array contradicts the environment's spec, is not finite, or only some samples have it.
    """
    from webdataset.writer import ShardWriter

    members: dict[str, Member] = {}
    files: list[WrittenHashed] = []
    counts: list[tuple[int, int, int]] = []

    def open_file(name: str) -> WrittenHashed:
        files.append(WrittenHashed(Path(name)))
        counts.append((0, 0, 0))
        return files[-1]

    writer = ShardWriter(
        str(folder / "shard").replace("%", "%%") + "-%06d.tar",
        maxcount=samples_per_shard,
        maxsize=float("inf"),
        opener=open_file,
        post=lambda _: files[-1].finish(),
        verbose=0,
        mtime=0,
        user="dof",
        group="dof",
    )
    with writer:
        for number, rows in enumerate(samples):
            members = members or expected_members(rows, environment)
            if set(rows.arrays()) != set(members):
                raise DataFault(f"some blocks contain {sorted(rows.arrays())}, others {sorted(members)}")
            arrays = {name: np.ascontiguousarray(a, dtype=members[name].dtype) for name, a in rows.arrays().items()}
            _check_sample(arrays, members)
            writer.write({"__key__": f"{number:06d}"} | {f"{name}.npy": array for name, array in arrays.items()})
            n_episodes, n_steps, n_windows = counts[-1]
            n_windows += _count_training_windows(rows)
            counts[-1] = (n_episodes + rows.n_episodes, n_steps + rows.n_steps, n_windows)
    return members, tuple(
        ShardEntry(file.path.name, n_episodes, n_steps, n_windows, file.n_bytes, file.sha256.hexdigest())
        for file, (n_episodes, n_steps, n_windows) in zip(files, counts, strict=True)
    )


def read_shard(url: str, members: Mapping[str, Member], entry: ShardEntry | None = None) -> Iterator[EpisodeRows]:
    """Yields the samples of a shard in turn.

    Args:
        url: the shard's path, or an `http(s)://` or `s3://` address.
        members: the members to read; others are skipped.
        entry: the expected numbers of episodes and steps; never more than these are yielded.

    Raises:
        UserError: the file cannot be opened, is truncated, contains other episodes or bytes than expected, or a member
            has another type or shape, contains pickled objects, or is not finite; the message names file, member and
            fix.
    """
    from webdataset.tariterators import group_by_keys

    n_episodes = n_steps = 0
    most = {f"{name}.npy": _most_bytes(name, member, entry) for name, member in members.items()}
    with open_url(url, None if entry is None else entry.n_bytes) as file:
        hashed = ReadHashed(file, None if entry is None else entry.n_bytes)
        try:
            for sample in group_by_keys(_plain_files(io.BufferedReader(hashed, READ_BYTES), url, most)):
                rows = _decode(sample, members)
                n_episodes, n_steps = n_episodes + rows.n_episodes, n_steps + rows.n_steps
                if entry is not None and (n_episodes > entry.n_episodes or n_steps > entry.n_steps):
                    raise ValueError(f"it contains more than {entry.n_episodes} episodes and {entry.n_steps} steps")
                yield rows
            if entry is not None and (n_episodes, n_steps) != (entry.n_episodes, entry.n_steps):
                raise ValueError(f"it contains {n_episodes} episodes, expected {entry.n_episodes}")
            if entry is not None and hashed.finish() != entry.sha256:
                raise ValueError("it was changed after it was written (another sha256)")
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            reason = error.args[0] if error.args else type(error).__name__
            raise UserError(f"{url}: {reason}; {_REPAIR_COPY if '://' in url else _REPAIR}") from error


def _plain_files(stream: io.BufferedReader, url: str, most: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """Yields the requested files of an uncompressed tar as WebDataset does, none larger than allowed.

    WebDataset's own reader unpacks compressed files, and a few kilobytes can be made to expand without end.
    """
    start = stream.peek(max(map(len, _COMPRESSED)))
    if start.startswith(_COMPRESSED):
        raise ValueError("it is compressed, and shards are plain tars")
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        for info in tar:
            tar.members = []  # type: ignore[attr-defined]  # or it keeps what it has seen
            wanted = info.name.partition(".")[2]
            if wanted not in most or not info.isreg():
                continue
            if info.issparse() or info.size > most[wanted]:
                raise ValueError(f"member {info.name} has {info.size} bytes, at most {most[wanted]} are expected")
            content = tar.extractfile(info)
            assert content is not None
            yield {"fname": info.name, "data": content.read(), "__url__": url}
    yield {}  # ends the last sample of the shard


def _most_bytes(name: str, member: Member, entry: ShardEntry | None) -> int:
    """The largest size of a file of a shard that contains an array of all its episodes."""
    if entry is None:
        return sys.maxsize
    sizes = dict.fromkeys(EPISODE_ARRAYS, entry.n_episodes) | dict.fromkeys(STEP_ARRAYS, entry.n_steps)
    rows = sizes.get(name, entry.n_steps + entry.n_episodes)
    return _HEADER_BYTES + rows * math.prod(member.shape) * np.dtype(member.dtype).itemsize


def open_url(url: str, n_bytes: int | None = None) -> IO[bytes]:
    """Opens a local path, `http(s)://` or `s3://` address for reading.

    A file at an address must have `n_bytes`, or any size if None.

    Raises:
        UserError: the file does not exist, cannot be reached, or has another kind of address; see `open_remote`.
    """
    protocol = url.partition("://")[0] if "://" in url else ""
    if protocol not in PROTOCOLS or "::" in url:
        raise UserError(f"{url}: only local paths, http(s):// and s3:// are read; copy the data to one of them")
    if protocol not in ("", "file"):
        return open_remote(url, n_bytes)
    import fsspec

    try:
        return fsspec.open(url, "rb").open()
    except FileNotFoundError as error:
        raise UserError(f"{url} is missing: build the dataset (`dof data build`) or correct the path") from error
    except OSError as error:
        raise UserError(f"{url} cannot be opened ({error}): check the path and its permissions") from error


def _count_training_windows(rows: EpisodeRows) -> int:
    import torch

    from data_modules.storage.split import is_heldout

    return int(rows.length[~is_heldout(torch.from_numpy(rows.episode_id)).numpy()].sum())


def _decode(sample: Mapping[str, Any], members: Mapping[str, Member]) -> EpisodeRows:
    key = sample["__key__"]
    missing = [name for name in members if f"{name}.npy" not in sample]
    if missing:
        raise ValueError(f"member {key}.{missing[0]}.npy is missing")
    arrays = {name: _load(sample[f"{name}.npy"], f"{key}.{name}.npy") for name in members}
    _check_sample(arrays, members, prefix=f"{key}.", suffix=".npy")
    return EpisodeRows(**arrays)


def _load(data: bytes, member: str) -> np.ndarray:
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError) as error:
        raise ValueError(f"member {member} is not a plain array ({error})") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"member {member} is not a plain array")
    return array


def _check_sample(
    arrays: Mapping[str, np.ndarray], members: Mapping[str, Member], prefix: str = "", suffix: str = ""
) -> None:
    n_episodes, n_steps = len(arrays["length"]), int(arrays["length"].sum())
    if (arrays["length"] < 1).any():
        raise DataFault(f"member {prefix}length{suffix} has an episode without steps")
    sizes = dict.fromkeys(EPISODE_ARRAYS, n_episodes) | dict.fromkeys(STEP_ARRAYS, n_steps)
    sizes |= dict.fromkeys(ROW_ARRAYS, n_steps + n_episodes)
    for name, array in arrays.items():
        member, shape = members[name], (sizes[name], *members[name].shape)
        if array.dtype.str != member.dtype or array.shape != shape:
            found = f"{array.dtype.str} {list(array.shape)}"
            raise DataFault(f"member {prefix}{name}{suffix} is {found}, expected {member.dtype} {list(shape)}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataFault(f"member {prefix}{name}{suffix} has values that are not finite")
