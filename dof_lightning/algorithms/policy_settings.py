"""What of DoF-Policy's settings goes together; everything that does not is refused in one line with the fix."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from dof_lightning.actors.diffusion import Selection
from dof_lightning.errors import UserError

Critics = Literal["none", "separate", "mixed", "joint"]
QGradient = Literal["none", "one_step", "full"]

_CHOICES: dict[str, Any] = {"critics": Critics, "q_gradient": QGradient, "selection": Selection}
_SHARES = ("ema_decay", "target_update_rate", "discount")


def check_settings(settings: Mapping[str, Any], learns_h: bool) -> None:
    """Refuses unknown choices, values out of range and settings that contradict each other.

    Args:
        settings: values by their name in the configuration: critics, q_gradient, selection, selection_temperature,
            candidates, local_head, reconstruction_weight, discount, ema_decay, target_update_rate.
        learns_h: whether the data factorisation has anything to learn.

    Raises:
        UserError: names the key and the fix.
    """
    _check_values(settings)
    critics, q_gradient, candidates = (settings[key] for key in ("critics", "q_gradient", "candidates"))
    if q_gradient != "none" and critics == "none":
        raise UserError(f"algorithm.q_gradient={q_gradient} needs algorithm.critics=separate, mixed or joint")
    if learns_h and q_gradient == "none" and settings["reconstruction_weight"] == 0:
        raise UserError(
            "data_factorization would get no gradient: set algorithm.reconstruction_weight above 0, "
            "algorithm.q_gradient=one_step, or data_factorization=concat"
        )
    if candidates > 1 and critics == "none":
        raise UserError(
            "algorithm.candidates above 1 needs critics to rank them: set algorithm.critics or candidates=1"
        )
    if candidates > 1 and critics == "joint" and not settings["local_head"]:
        raise UserError(
            f"algorithm.candidates={candidates} with algorithm.critics=joint: no agent can rank its own candidates by "
            "a joint Q; set algorithm.local_head=true or algorithm.candidates=1"
        )


def _check_values(settings: Mapping[str, Any]) -> None:
    for key, choices in _CHOICES.items():
        if settings[key] not in get_args(choices):
            raise UserError(f"algorithm.{key}={settings[key]} is unknown; choose one of {', '.join(get_args(choices))}")
    for key in _SHARES:
        if not 0.0 <= settings[key] <= 1.0:
            raise UserError(f"algorithm.{key}={settings[key]} must be between 0 and 1")
    if settings["candidates"] < 1:
        raise UserError(f"algorithm.candidates={settings['candidates']} must be at least 1")
    if settings["selection_temperature"] <= 0:
        raise UserError(
            f"algorithm.selection_temperature={settings['selection_temperature']} must be above 0; "
            "algorithm.selection=argmax takes the best candidate"
        )
