"""The choice of held-out episodes, which no step ever sees: a pure function of integers."""

from torch import Tensor

from dof_lightning.seeding import counter_uniform, derive_seed

HELDOUT_FRACTION = 0.02
_HELDOUT_KEY = derive_seed("held-out episodes")


def is_heldout(episode_id: Tensor, fraction: float = HELDOUT_FRACTION) -> Tensor:
    """Selects the episodes that are never trained on, `[n]` bool, by a hash of their id, the same for every seed.

    Smaller fractions are subsets of larger ones.

    Args:
        episode_id: `[n]` int64, original indices.
        fraction: expected share in [0, 1).
    """
    return counter_uniform(episode_id ^ _HELDOUT_KEY, 1)[:, 0] < fraction
