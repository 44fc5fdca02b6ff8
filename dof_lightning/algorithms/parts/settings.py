"""What values the settings of baselines may have; everything else is refused in one line with the fix."""

from collections.abc import Callable

from dof_lightning.errors import UserError

_TEMPERATURES = ("actor_temperature", "critic_temperature")
_RANGES: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
    (
        ("discount", "target_update_rate", "target_noise", "search_weight", "threshold", "target_quantile"),
        lambda value: 0.0 <= value <= 1.0,
        "between 0 and 1",
    ),
    (("ema_decay", "dropout"), lambda value: 0.0 <= value < 1.0, "at least 0 and below 1"),
    (("learning_rate", "critic_learning_rate", "search_std", *_TEMPERATURES), lambda value: value > 0.0, "above 0"),
    (
        ("gradient_clip", "critic_gradient_clip", "reward_scale", "returns_scale"),
        lambda value: value > 0.0,
        "above 0, or null",
    ),
    (("alpha", "weight_decay"), lambda value: value >= 0.0, "at least 0"),
    (("sequence_length", "samples", "search_iterations", "search_samples"), lambda value: value >= 1, "at least 1"),
)


def check_ranges(**settings: float | None) -> None:
    """Refuses values out of range.

    Args:
        settings: by their name in the configuration, one of the table above.

    Raises:
        UserError: names the key and what would fit.
    """
    known = {key: (fits, words) for keys, fits, words in _RANGES for key in keys}
    for key, value in settings.items():
        fits, words = known[key]
        if value is not None and not fits(value):
            raise UserError(f"algorithm.{key}={value} must be {words}")


def check_local(execution: str) -> None:
    """Refuses centralised execution where agents act by networks of their own.

    Raises:
        UserError: says what to type.
    """
    if execution != "decentralized":
        raise UserError(
            f"execution={execution}: agents read their own observations and act alone; use execution=decentralized"
        )
