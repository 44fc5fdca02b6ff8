"""Agents on their own: one file each, in processes without Lightning, Hydra or anything of the others."""

from dof_lightning.deployment.agent import Agent, load_agent

__all__ = ["Agent", "load_agent"]
