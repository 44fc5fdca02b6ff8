"""The `dof` command: everything besides training."""
