"""Which denoisers fit which algorithm: what diffuses is either an action or a window of observations."""

from collections.abc import Callable
from typing import Any, Literal

from torch import nn

from dof_lightning.errors import UserError
from dof_lightning.spec import DatasetSpec

Diffuses = Literal["actions", "trajectories"]

OPTIONS: dict[Diffuses, tuple[str, ...]] = {
    "actions": ("mlp", "mlp_shared"),
    "trajectories": ("temporal_unet", "temporal_unet_faithful", "temporal_unet_shared"),
}


def build_denoiser(
    factory: Callable[..., nn.Module], spec: DatasetSpec, condition_dim: int, diffuses: Diffuses, algorithm: str
) -> Any:
    """The bank of per-agent denoisers, after a look at whether it is one for these data.

    Args:
        factory: called with the spec and `condition_dim`.
        spec: the dataset's spec.
        condition_dim: C, of what each agent conditions on.
        diffuses: what the algorithm diffuses.
        algorithm: its name in the configuration.

    Raises:
        UserError: the denoiser says that it is for something else.
    """
    bank = factory(spec, condition_dim=condition_dim)
    made_for = getattr(type(bank), "diffuses", diffuses)
    if made_for != diffuses:
        raise UserError(
            f"denoiser: {type(bank).__name__} is for {made_for}, but algorithm={algorithm} diffuses {diffuses}; "
            f"choose denoiser={' or '.join(OPTIONS[diffuses])}"
        )
    return bank
