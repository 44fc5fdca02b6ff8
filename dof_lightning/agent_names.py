"""Names of agents, which are those of the files that they are exported to."""

import re
from collections.abc import Sequence

from dof_lightning.errors import UserError


def check_agent_names(where: str, names: Sequence[str]) -> None:
    """Refuses names that agents share or that are no file names: one agent's file would replace another's.

    Raises:
        UserError: begins with `where`, names the first such agent and says how names must be.
    """
    for index, name in enumerate(names):
        if names.index(name) < index:
            fault = f"agents {names.index(name)} and {index} are both named {name!r}"
        elif not re.fullmatch(r"\w[\w.-]*", name):
            fault = f"the agent's name {name!r} cannot be a file name"
        else:
            continue
        raise UserError(
            f"{where}: {fault}; rename it: names are different, of letters, digits, '_', '.' and '-', and begin with "
            "none of the last two"
        )
