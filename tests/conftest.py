import dof_lightning  # noqa: F401  # before torch, so that its threads sleep while they wait
