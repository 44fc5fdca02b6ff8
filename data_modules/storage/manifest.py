"""`dataset.json`: the description of a dataset, the places of its episodes, and their statistics."""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_modules.storage.arrays import DataFault, EpisodeRows
from data_modules.storage.document import check_agreement, check_document
from data_modules.storage.shards import Member, ShardEntry, open_url, read_shard
from dof_lightning.digest import sealed, unsealed
from dof_lightning.errors import UserError
from dof_lightning.plain import parse_json
from dof_lightning.spec import DatasetSpec, DatasetStatistics, DimensionStatistics, EnvSpec

FORMAT_VERSION = 1
FILE_NAME = "dataset.json"

_SMALL = ("mean", "std", "minimum", "maximum")
_REBUILD = "delete the folder and build the dataset again (`dof data build`)"


@dataclass(frozen=True)
class DatasetManifest:
    """A dataset on disk or behind a URL.

    Attributes:
        location: the folder's path or address.
        spec: the spec that algorithms see.
        behavior: the behaviour policy: name, hash of weights, noise, and `return_mean`, `return_std` over all episodes,
            with `win_rate` if there was something to win.
        members: the arrays of every sample.
        shards: in order.
        longest: number of steps of the longest episode.
        n_terminated: number of episodes that really ended; the others were cut by a time limit.
        return_knots: `[Q]`, quantiles of the undiscounted episode returns (mean over agents), all episodes.
    """

    location: str
    spec: DatasetSpec
    behavior: Mapping[str, Any]
    members: Mapping[str, Member]
    shards: tuple[ShardEntry, ...]
    longest: int
    n_terminated: int
    return_knots: np.ndarray

    @property
    def n_episodes(self) -> int:
        """The number of episodes of all shards, including held-out ones."""
        return sum(shard.n_episodes for shard in self.shards)

    @property
    def n_steps(self) -> int:
        """The number of environment steps of all shards."""
        return sum(shard.n_steps for shard in self.shards)

    @property
    def n_training_windows(self) -> int:
        """The number of training windows: one per step of the episodes that are not held out."""
        return sum(shard.n_training_windows for shard in self.shards)

    @property
    def n_bytes(self) -> int:
        """The size of all shards."""
        return sum(shard.n_bytes for shard in self.shards)

    def url(self, shard: ShardEntry) -> str:
        """The path or address of a shard."""
        return f"{self.location}/{shard.name}"


def write_manifest(folder: Path, manifest: DatasetManifest) -> None:
    """Writes `dataset.json` into a folder; the same manifest gives the same bytes.

    Raises:
        DataFault: nobody could read it, so nothing is written.
    """
    spec = manifest.spec
    document = {
        "format_version": FORMAT_VERSION,
        "name": spec.name,
        "fingerprint": spec.fingerprint,
        "environment": spec.environment.to_dict(),
        "discount": spec.discount,
        "recipe": dict(spec.recipe),
        "behavior": dict(manifest.behavior),
        "n_episodes": manifest.n_episodes,
        "n_steps": manifest.n_steps,
        "longest": manifest.longest,
        "n_terminated": manifest.n_terminated,
        "members": {name: asdict(member) for name, member in manifest.members.items()},
        "shards": [asdict(shard) for shard in manifest.shards],
        "return_knots": _encode(manifest.return_knots),
        "statistics": _encode_statistics(spec.statistics),
    }
    try:
        written = json.dumps(sealed(document), indent=1, allow_nan=False) + "\n"
        _understand(manifest.location, json.loads(written))
    except ValueError as error:
        raise DataFault(
            f"{manifest.location}: these episodes would make an unreadable dataset ({' '.join(str(error).split())}); "
            "correct them, or the description"
        ) from error
    (folder / FILE_NAME).write_text(written, encoding="utf-8")


def read_manifest(path: Path | str, key: str = "the path") -> DatasetManifest:
    """Reads `dataset.json` and checks that the shards it lists are there in full size.

    Args:
        path: the dataset's folder, or its `http(s)://` or `s3://` address (shards are then not checked).
        key: the configuration key of the path, for messages.

    Raises:
        UserError: the folder or its `dataset.json` is missing, unreadable or of another format version, or a shard is
            missing or has another size.
    """
    location = str(path).rstrip("/")
    is_local = "://" not in location
    if is_local:
        _check_folder(Path(location), key)
    manifest = _parse(location)
    if is_local:
        _check_files(manifest)
    return manifest


def _check_folder(folder: Path, key: str) -> None:
    """Refuses a path that is no dataset's folder; only a folder with shards is one that lost its `dataset.json`."""
    if folder.is_file():
        raise UserError(f"{folder} is a file, a dataset is a folder; correct {key}, or see `dof data import --help`")
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such dataset; correct {key}, or build one (`dof data build`)")
    if (folder / FILE_NAME).is_file():
        return
    if any(folder.glob("*.tar")):
        raise UserError(f"{folder}/{FILE_NAME} is missing: this is not a dataset; {_REBUILD} or correct {key}")
    below = sorted(str(file.parent) for file in folder.glob(f"*/{FILE_NAME}"))
    hint = f" to one below it, such as {below[0]}" if below else ""
    raise UserError(f"{folder} is not a dataset: it has no {FILE_NAME} and no shards; correct {key}{hint}")


def read_episodes(manifest: DatasetManifest) -> Iterator[EpisodeRows]:
    """Yields all episodes in the order in which they are stored, one sample at a time.

    A shard's sha256 is verified when its last sample has been taken: results made from the episodes are valid only if
    the iterator has reached its end.

    Raises:
        UserError: a shard is damaged, or not the one that the manifest lists (see `read_shard`).
    """
    for shard in manifest.shards:
        yield from read_shard(manifest.url(shard), manifest.members, shard)


def _parse(location: str) -> DatasetManifest:
    file = f"{location}/{FILE_NAME}"
    try:
        with open_url(file) as stream:
            document = parse_json(stream.read(), most=None)
        version = document.get("format_version") if isinstance(document, dict) else None
        if type(version) is int and version != FORMAT_VERSION:
            raise UserError(f"{file} has format version {version}, this program reads {FORMAT_VERSION}; {_REBUILD}")
        manifest = _understand(location, document)
        if manifest.spec.fingerprint != document["fingerprint"]:
            raise UserError(f"{file} was changed by hand (its recipe does not give its fingerprint); {_REBUILD}")
        unsealed(document)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({' '.join(str(error).split())}); {_REBUILD}") from error
    return manifest


def _understand(location: str, document: Any) -> DatasetManifest:
    """Decodes a document whose parts are valid and agree.

    Raises:
        ValueError: names the first key with an invalid value, or that contradicts another.
    """
    check_document(document)
    manifest = _decode(location, document)
    check_agreement(document, manifest.spec.environment, manifest.spec.statistics)
    return manifest


def _decode(location: str, document: Mapping[str, Any]) -> DatasetManifest:
    shards = tuple(ShardEntry(**shard) for shard in document["shards"])
    return_knots = _array("return_knots", document["return_knots"])
    if return_knots.ndim != 1:
        raise ValueError(f"return_knots has shape {list(return_knots.shape)}")
    return DatasetManifest(
        location=location,
        spec=DatasetSpec(
            name=document["name"],
            environment=EnvSpec.from_dict(document["environment"]),
            discount=document["discount"],
            recipe=document["recipe"],
            statistics=_decode_statistics(document["statistics"]),
            shards_sha256=hashlib.sha256("".join(shard.sha256 for shard in shards).encode()).hexdigest(),
        ),
        behavior=document["behavior"],
        members={name: Member(m["dtype"], tuple(m["shape"])) for name, m in document["members"].items()},
        shards=shards,
        longest=document["longest"],
        n_terminated=document["n_terminated"],
        return_knots=return_knots,
    )


def _check_files(manifest: DatasetManifest) -> None:
    for shard in manifest.shards:
        file = Path(manifest.url(shard))
        if not file.is_file():
            raise UserError(f"{file} is missing: the dataset is incomplete; {_REBUILD}")
        if file.stat().st_size != shard.n_bytes:
            raise UserError(f"{file} has {file.stat().st_size} bytes instead of {shard.n_bytes}; {_REBUILD}")


def _encode_statistics(statistics: DatasetStatistics) -> dict[str, Any]:
    return {
        "observations": _encode_dimensions(statistics.observations),
        "actions": None if statistics.actions is None else _encode_dimensions(statistics.actions),
        "return_mean": statistics.return_mean,
        "return_std": statistics.return_std,
        "discounted_return_knots": _encode(statistics.discounted_return_knots),
    }


def _decode_statistics(data: Mapping[str, Any]) -> DatasetStatistics:
    return DatasetStatistics(
        observations=_decode_dimensions("observations", data["observations"]),
        actions=None if data["actions"] is None else _decode_dimensions("actions", data["actions"]),
        return_mean=data["return_mean"],
        return_std=data["return_std"],
        discounted_return_knots=_array("discounted_return_knots", data["discounted_return_knots"]),
    )


def _encode_dimensions(statistics: DimensionStatistics) -> dict[str, Any]:
    small = {name: getattr(statistics, name).tolist() for name in _SMALL}
    return small | {"knots": _encode(statistics.knots)}


def _decode_dimensions(place: str, data: Mapping[str, Any]) -> DimensionStatistics:
    if len({len(row) for name in _SMALL for row in data[name]}) > 1:
        raise ValueError(f"statistics.{place} has rows of different lengths")
    small = {name: np.array(data[name], dtype=np.float32) for name in _SMALL}
    return DimensionStatistics(**small, knots=_array(f"{place}.knots", data["knots"]))


def _encode(array: np.ndarray) -> dict[str, Any]:
    """Encodes knots, which are many and not meant to be read, as base64 of little-endian float32."""
    data = np.ascontiguousarray(array, dtype="<f4")
    return {"shape": list(data.shape), "float32": base64.b64encode(data.tobytes()).decode()}


def _array(place: str, data: Mapping[str, Any]) -> np.ndarray:
    """Decodes knots `[Q, ...]`: at least two, all finite."""
    try:
        flat = np.frombuffer(base64.b64decode(data["float32"], validate=True), dtype="<f4")
        array = flat.reshape(data["shape"]).astype(np.float32)
    except ValueError as error:
        raise ValueError(f"{place} does not contain numbers of its shape ({error})") from error
    if array.ndim == 0 or len(array) < 2 or not np.isfinite(array).all():
        raise ValueError(f"{place} needs two knots or more, all finite")
    return array
