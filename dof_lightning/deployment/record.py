"""The json of an agent: how it is found, written and checked."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dof_lightning import __version__
from dof_lightning.digest import KEY, sealed, unsealed
from dof_lightning.errors import UserError
from dof_lightning.plain import parse_json
from dof_lightning.schema import anything, many, mapping, one_of, record, text, whole

FORMAT = "dof-lightning agent"
_WITHOUT_SEAL = 2  # the format of version 0.1.0
FORMAT_VERSION = 4  # rises whenever the attributes of a policy's classes change, because files contain these
_READ = (_WITHOUT_SEAL, 3, FORMAT_VERSION)  # new attributes have defaults that older files rely on
SHIPPED = Path(__file__).with_name("teams")  # one folder per team, as `dof export` writes it

_ABOUT = record(
    {
        "name": text,
        "action_kind": one_of("continuous", "discrete"),
        "index": whole(0),
        **dict.fromkeys(("observation_dim", "action_dim", "padded_observation_dim", "padded_action_dim"), whole(1)),
    },
    others=anything,
)
_RECORD = record(
    {"agent": _ABOUT, "noise_shape": many(whole(0)), "weights_sha256": text, "structure": mapping}, others=anything
)
_WRITTEN_BY = record({"versions": record({"dof-lightning": text}, others=anything)}, others=anything)
AGAIN = "export the checkpoint again"
_EXPORT = "`dof export checkpoint=<path>` writes one json per agent"


def shipped_teams() -> list[str]:
    """Names of the teams that this package contains."""
    return sorted(folder.name for folder in SHIPPED.iterdir() if folder.is_dir())


def find_record(path: str | Path, agent: int | str | None = None) -> Path:
    """The json of one agent.

    Args:
        path: the json itself, a folder that `dof export` wrote, or a name in `shipped_teams`. A path that exists
            has priority over a name.
        agent: index or name in the team, for a folder or a name of a team; None means index 0.

    Raises:
        UserError: the path does not exist, the team has no such agent, or `agent` is given with the json of one agent.
    """
    given, path = path, Path(path)
    if path.is_file():
        if agent is not None:
            raise UserError(f"{path} is one agent already; leave out agent={agent}, or name the folder")
        return path
    is_shipped = str(path) in shipped_teams()
    folder = SHIPPED / path if is_shipped and not path.exists() else path
    if not folder.is_dir():
        raise UserError(f"{given} does not exist; {_EXPORT}, and the teams shipped are {', '.join(shipped_teams())}")
    team = team_records(folder)
    if not team:
        hidden = f"; it hides the shipped team {path}: load that from another folder" if is_shipped else ""
        raise UserError(f"{given} contains no agents; {_EXPORT}{hidden}")
    wanted = 0 if agent is None else agent
    if isinstance(wanted, int) and wanted in team:
        return team[wanted]
    names = {index: read_record(found)[0]["agent"]["name"] for index, found in team.items()}
    for index, name in names.items():
        if name == wanted:
            return team[index]
    choices = ", ".join(f"{index} ({name})" for index, name in names.items())
    raise UserError(f"{given} has no agent={wanted!r}; choose one of {choices}")


def team_records(folder: Path) -> dict[int, Path]:
    """The jsons of a team by the agents' indices, in order; empty if the folder contains none.

    Raises:
        UserError: a json is damaged, or not of an agent.
    """
    indices = {read_record(path)[0]["agent"]["index"]: path for path in folder.glob("*.json")}
    return dict(sorted(indices.items()))


def weights_path(record: Path) -> Path:
    """The path of the weights of an agent's json."""
    return record.with_name(f"{record.name.removesuffix('.json')}.safetensors")


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Writes an agent's json, sealed."""
    path.write_text(json.dumps(sealed(record), indent=1) + "\n", encoding="utf-8")


def read_record(path: Path) -> tuple[dict[str, Any], bool]:
    """Reads an agent's json without its seal.

    Returns:
        the content, and whether it was sealed: version 0.1.0 wrote no seal.

    Raises:
        UserError: the file is damaged, of another format, or not of an agent.
    """
    try:
        content = parse_json(path.read_bytes(), infinity=True)  # bounds may be infinite
    except ValueError as error:
        raise UserError(f"{path} is damaged: it is not JSON ({error}); {AGAIN}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} does not describe an agent that `dof export` wrote")
    try:
        if content.get("format_version") not in _READ:
            _WRITTEN_BY("", content)
            raise UserError(
                f"{path} has format_version {content.get('format_version')}, dof-lightning {__version__} reads "
                f"{', '.join(map(str, _READ))}; it was written by {content['versions']['dof-lightning']}: {AGAIN}"
            )
        record = unsealed(content, owed=content["format_version"] != _WITHOUT_SEAL)
        _RECORD("", content)
        _check_sizes(content["agent"])
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}; {AGAIN}") from error
    return record, KEY in content


def _check_sizes(about: Mapping[str, Any]) -> None:
    for which in ("observation_dim", "action_dim"):
        if about[which] > about[f"padded_{which}"]:
            raise ValueError(f"agent.{which} must be at most agent.padded_{which}, got {about[which]}")
