"""The names that a user has trusted, stored per run folder and outside of it, so that `trust=true` is typed once.

A folder cannot vouch for itself, because its origin may be unknown. The trusted names are therefore stored in
`$XDG_STATE_HOME/dof-lightning/trusted.json` (`~/.local/state` if that is not set), by the run folder's path. A
checkpoint that lies in no run folder is known by its content, as its neighbours may come from anywhere.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dof_lightning.config.targets import untrusted
from dof_lightning.files import locked, sha256, write_atomically


def place_of(checkpoint: Path) -> str:
    """What the trust in a checkpoint is noted under: its run folder's path, or the sha256 of a file outside of one."""
    path = checkpoint.resolve()
    return str(path.parent.parent) if path.parent.name == "checkpoints" else sha256(path)


def remember(place: str, config: Mapping[str, Any]) -> None:
    """Notes that the foreign names of a configuration are trusted in a place, if the note can be written.

    Args:
        place: the run's folder, resolved, or what `place_of` returns.
        config: the resolved configuration, for which trust=true was typed.
    """
    names, note = untrusted(config), _note()
    if not names:
        return
    with suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        with locked(note.with_suffix(".lock")):
            known = _known()
            known[place] = sorted({*known.get(place, ()), *names})
            write_atomically(note, json.dumps(known, indent=1, ensure_ascii=False) + "\n")


def remembered(checkpoint: Path, config: Mapping[str, Any]) -> list[str]:
    """The foreign names of a checkpoint's configuration, if all of them were trusted before; else none.

    Args:
        checkpoint: the file.
        config: its configuration.
    """
    names = untrusted(config)
    return names if names and set(names) <= set(_known().get(place_of(checkpoint), [])) else []


def _note() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "dof-lightning" / "trusted.json"


def _known() -> dict[str, list[str]]:
    """The trusted names by run folder; empty if the note is damaged."""
    try:
        known = json.loads(_note().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    is_sound = isinstance(known, dict) and all(isinstance(names, list) for names in known.values())
    return known if is_sound else {}
