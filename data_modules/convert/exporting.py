"""`dof data export`: one of our datasets in another format, episodes in the order of their ids."""

import errno
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from data_modules.convert.export_omar import export_omar
from data_modules.convert.export_vault import export_vault
from data_modules.storage.arrays import EpisodeRows
from data_modules.storage.disk_order import arrange
from data_modules.storage.manifest import DatasetManifest, read_episodes, read_manifest
from dof_lightning.errors import UserError
from dof_lightning.files import building

FORMATS: dict[str, Callable[[DatasetManifest, Iterator[EpisodeRows], Path], None]] = {
    "omar": export_omar,
    "vault": export_vault,
}

_BUFFER_BYTES = 1 << 26
_GROUP = 256


def export_dataset(path: Path | str, format_: str, output: Path, state: str | None = None) -> Path:
    """Writes a dataset in another format to the folder `output`, all or nothing, in bounded memory.

    Args:
        path: the dataset's folder or address.
        format_: a key of `FORMATS`.
        output: a folder that does not exist yet.
        state: `observations`: all agents' observations side by side become the global state that the dataset lacks;
            None writes only a state that the dataset has.

    Raises:
        UserError: the format is unknown or cannot hold this dataset, `output` exists, or the dataset has a state
            already.
    """
    if format_ not in FORMATS:
        raise UserError(f"format={format_} is unknown; choose one of {', '.join(FORMATS)}")
    if output.exists():
        raise UserError(f"output={output} exists; name another folder, or delete it")
    if not output.parent.is_dir():
        raise UserError(f"output={output}: there is no folder {output.parent}; make it, or choose another")
    manifest, console = read_manifest(path), Console(stderr=True)
    _check_state(manifest, format_, state)
    if format_ == "vault" and state is None and "state" not in manifest.members:
        console.print(
            f"{manifest.location} holds no global state, so the vault gets no infos.state, which OG-MARL's continuous "
            "systems need: state=observations puts the joint observation there",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    try:
        with building(output, "exporting") as draft, Progress(console=console) as bars:
            bar = bars.add_task(f"exporting {manifest.spec.name}", total=manifest.n_episodes)
            groups = _told(_in_order(manifest, draft / ".unsorted"), lambda count: bars.advance(bar, count))
            groups = groups if state is None else map(_with_joint_state, groups)
            FORMATS[format_](manifest, groups, draft)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"output={output}: the disk is full; make room, or choose another") from error
    except ValueError as error:  # tensorstore raises it if a file cannot be written
        raise UserError(f"output={output} could not be written: {' '.join(str(error).split())[:200]}") from error
    return output


def _check_state(manifest: DatasetManifest, format_: str, state: str | None) -> None:
    if state is None:
        return
    if state != "observations" or format_ != "vault":
        raise UserError(f"state={state}: format=vault supports state=observations only; leave it out otherwise")
    if "state" in manifest.members:
        raise UserError(f"state={state}: {manifest.location} already has a global state; leave it out")


def _with_joint_state(rows: EpisodeRows) -> EpisodeRows:
    return replace(rows, state=rows.observations.reshape(len(rows.observations), -1))


def _in_order(manifest: DatasetManifest, scratch: Path) -> Iterator[EpisodeRows]:
    ids = np.sort(np.concatenate([rows.episode_id for rows in read_episodes(manifest)]))

    def place(rows: EpisodeRows) -> np.ndarray:
        return np.searchsorted(ids, rows.episode_id) / len(ids)

    return arrange(read_episodes(manifest), place, len(ids), _GROUP, _BUFFER_BYTES, scratch)


def _told(groups: Iterator[EpisodeRows], progress: Callable[[int], None]) -> Iterator[EpisodeRows]:
    for rows in groups:
        yield rows
        progress(rows.n_episodes)
