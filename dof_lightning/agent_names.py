"""Names of agents: different within a team, and turned into names of files where agents are exported."""

import re
from collections.abc import Sequence

from dof_lightning.errors import UserError


def check_agent_names(where: str, names: Sequence[str]) -> None:
    """Refuses names that agents share: nobody could tell these agents apart.

    Raises:
        UserError: begins with `where`, and names the first such agents.
    """
    for index, name in enumerate(names):
        if names.index(name) < index:
            raise UserError(f"{where}: agents {names.index(name)} and {index} are both named {name!r}; rename one")


def file_names(names: Sequence[str]) -> list[str]:
    """Different names of files, without their ending: the agents' own, with `_` for what few file systems allow."""
    stems = [re.sub(r"[^\w.-]", "_", name).lstrip(".-") or "_" for name in names]
    return [stem if stems.count(stem) == 1 else f"{stem}_{index}" for index, stem in enumerate(stems)]
