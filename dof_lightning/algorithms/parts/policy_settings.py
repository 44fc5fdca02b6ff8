"""What of DoF-Policy's settings goes together; everything that does not is refused in one line with the fix."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from dof_lightning.actors.diffusion import Selection
from dof_lightning.errors import UserError

Critics = Literal["none", "separate", "mixed", "joint"]
QGradient = Literal["none", "one_step", "full"]

_CHOICES: dict[str, Any] = {"critics": Critics, "q_gradient": QGradient, "selection": Selection}
_Fits = Callable[[float], bool]
_RANGES: tuple[tuple[tuple[str, ...], _Fits, str], ...] = (
    (("ema_decay", "target_update_rate", "discount"), lambda value: 0.0 <= value <= 1.0, "between 0 and 1"),
    (("learning_rate", "critic_learning_rate"), lambda value: value > 0.0, "above 0"),
    (("gradient_clip", "critic_gradient_clip", "reward_scale"), lambda value: value > 0.0, "above 0, or null"),
    (("q_weight", "reconstruction_weight"), lambda value: value >= 0.0, "at least 0"),
    (("candidates",), lambda value: value >= 1, "at least 1"),
)


def check_settings(settings: Mapping[str, Any], learns_h: bool) -> None:
    """Refuses unknown choices, values out of range and settings that contradict each other.

    Args:
        settings: values by their name in the configuration: critics, q_gradient, selection, selection_temperature,
            candidates, local_head, reconstruction_weight, q_weight, discount, ema_decay, target_update_rate, the
            learning rates, gradient clips and the reward scale.
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
    _check_ranges(settings)
    if settings["selection_temperature"] <= 0:
        raise UserError(
            f"algorithm.selection_temperature={settings['selection_temperature']} must be above 0; "
            "algorithm.selection=argmax takes the best candidate"
        )


def _check_ranges(settings: Mapping[str, Any]) -> None:
    for keys, fits, words in _RANGES:
        for key in keys:
            if settings[key] is not None and not fits(settings[key]):
                raise UserError(f"algorithm.{key}={settings[key]} must be {words}")
