"""The `dof` command: what is done beside training."""
