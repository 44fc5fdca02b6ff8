"""What of DoF-Trajectory's settings goes together; everything that does not is refused in one line with the fix."""

from collections.abc import Callable, Mapping
from typing import Any, get_args

from dof_lightning.actors.planning import ReturnUpdate
from dof_lightning.errors import UserError

_Fits = Callable[[float], bool]
_RANGES: tuple[tuple[tuple[str, ...], _Fits, str], ...] = (
    (("ema_decay", "target_quantile"), lambda value: 0.0 <= value <= 1.0, "between 0 and 1"),
    (("return_dropout",), lambda value: 0.0 <= value < 1.0, "at least 0 and below 1"),
    (("learning_rate", "next_row_weight"), lambda value: value > 0.0, "above 0"),
    (("gradient_clip", "returns_scale"), lambda value: value > 0.0, "above 0, or null"),
    (
        ("guidance_weight", "reconstruction_weight", "history", "inverse_noise"),
        lambda value: value >= 0.0,
        "at least 0",
    ),
    (("horizon",), lambda value: value >= 2, "at least 2: the current row and one that is planned"),
)


def check_settings(settings: Mapping[str, Any], learns_h: bool) -> None:
    """Refuses values out of range and settings that contradict each other.

    Args:
        settings: values by their name in the configuration, each of `_RANGES` and `return_update`.
        learns_h: whether the data factorisation has anything to learn.

    Raises:
        UserError: names the key and the fix.
    """
    for keys, fits, words in _RANGES:
        for key in keys:
            if settings[key] is not None and not fits(settings[key]):
                raise UserError(f"algorithm.{key}={settings[key]} must be {words}")
    update, choices = settings["return_update"], get_args(ReturnUpdate)
    if update not in choices:
        raise UserError(f"algorithm.return_update={update} is unknown; choose one of {', '.join(choices)}")
    if learns_h and settings["reconstruction_weight"] == 0:
        raise UserError(
            "data_factorization would get no gradient: set algorithm.reconstruction_weight above 0, "
            "or data_factorization=concat"
        )
    if settings["guidance_weight"] != 1 and settings["return_dropout"] == 0:
        raise UserError(
            f"algorithm.guidance_weight={settings['guidance_weight']} needs predictions without a return, which "
            "algorithm.return_dropout=0 never trains; set return_dropout above 0, or guidance_weight=1"
        )
