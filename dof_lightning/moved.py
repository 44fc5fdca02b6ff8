"""Where the classes of earlier versions are now, so that what those versions wrote keeps loading.

Checkpoints and run folders name classes in their configuration, exported agents in their structure. Both are read
through these tables; nothing is ever written with an old name.
"""

from collections.abc import Mapping
from typing import Any

# Old module: new module. The names inside stayed.
_MODULES = {
    "data_modules.behavior.games": "data_modules.behavior.game_teams",
    "data_modules.behavior.spread": "data_modules.behavior.spread_team",
    "dof_lightning.envs.particle": "dof_lightning.envs.particle.env",
    "dof_lightning.envs.pettingzoo": "dof_lightning.envs.pettingzoo.env",
    "dof_lightning.envs.smac": "dof_lightning.envs.smac.env",
    "dof_lightning.envs.smax": "dof_lightning.envs.smax.env",
}
# Old class: the settings that make it now; those are no partial functions.
_SETTINGS: dict[str, str] = {}


def current_name(path: str) -> str:
    """The dotted path of a class as this version has it; unchanged where it has not moved."""
    module, _, name = path.rpartition(".")
    return f"{_MODULES.get(module, module)}.{name}" if module else path


def current_config(node: Any) -> Any:
    """A stored configuration with the names of today; what it configures stays the same.

    Args:
        node: nested plain containers.
    """
    if isinstance(node, Mapping):
        renamed = {key: current_config(value) for key, value in node.items()}
        if isinstance(target := node.get("_target_"), str):
            renamed["_target_"] = _SETTINGS.get(target, current_name(target))
            if target in _SETTINGS:
                renamed.pop("_partial_", None)
        return renamed
    if isinstance(node, list | tuple):
        return [current_config(value) for value in node]
    return node
