"""Trained policies that act without a trainer; nothing here imports Lightning or Hydra."""
