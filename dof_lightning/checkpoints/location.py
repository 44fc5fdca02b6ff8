"""The checkpoint that a path names, found before torch is imported, so that a typing mistake is reported at once."""

from pathlib import Path

from dof_lightning.config.command_line import for_shell
from dof_lightning.errors import UserError

_LAST = Path("checkpoints") / "last.ckpt"
_LEVELS = 3  # depth of folders of runs: runs/<experiment>/<algorithm>/<time>


def find_checkpoint(path: Path, key: str = "checkpoint") -> Path:
    """Returns the file itself, or the newest checkpoint of a run's folder.

    Args:
        path: a checkpoint, or a run's folder.
        key: the key of the path, for messages.

    Raises:
        UserError: there is no checkpoint; for a folder of runs, the message names the newest.
    """
    file = path / _LAST if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{key}={file} does not exist; a run keeps them in <run_dir>/{_LAST}{newest_below(path, key)}")
    return file


def newest_below(path: Path, key: str) -> str:
    """The end of a message that names the newest run below a folder as an override; empty if there is none."""
    found = [file for level in range(1, _LEVELS + 1) for file in path.glob("*/" * level + str(_LAST))]
    if not found:
        return ""
    newest = max(found, key=lambda file: file.stat().st_mtime)
    return f"; the newest run below {path} is {for_shell(f'{key}={newest.parent.parent}')}"
