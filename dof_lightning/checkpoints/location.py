"""Which file a path names; known before torch is imported, so that a typing mistake is answered at once."""

from pathlib import Path

from dof_lightning.errors import UserError


def find_checkpoint(path: Path) -> Path:
    """The file itself, or the newest checkpoint of the run whose folder it is.

    Raises:
        UserError: there is none.
    """
    file = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"checkpoint={file} does not exist; a run keeps them in <run_dir>/checkpoints/last.ckpt")
    return file
