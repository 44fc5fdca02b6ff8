"""An algorithm that learns choices is refused where actions are continuous, and the other way round."""

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from dof_lightning.config.catalog import CONF_DIR, options
from dof_lightning.config.targets import attribute
from dof_lightning.errors import UserError
from dof_lightning.spec import ActionKind, EnvSpec


def check_action_kind(config: Mapping[str, Any], environment: EnvSpec) -> None:
    """Refuses before any data are built.

    Args:
        config: the resolved configuration.
        environment: where the data come from.

    Raises:
        UserError: names the algorithms that fit.
    """
    kind = environment.action_kind
    if kind in _kinds(config["algorithm"]["_target_"]):
        return
    fitting = [option for option in options("algorithm") if kind in _kinds(_target(option))]
    raise UserError(
        f"algorithm={config['choices']['algorithm']} does not learn {kind} actions, those of {environment.name}; "
        f"choose algorithm={' or '.join(fitting)}"
    )


def _kinds(target: str) -> tuple[ActionKind, ...]:
    return attribute(target, "action_kinds") or ()


def _target(option: str) -> str:
    """What an option of group algorithm names, itself or through the option that it starts from."""
    content: Any = OmegaConf.load(CONF_DIR / "algorithm" / f"{option}.yaml")
    if "_target_" in content:
        return str(content._target_)
    base = next(base for base in content.defaults if isinstance(base, str) and base != "_self_")
    return _target(base.partition("@")[0])
