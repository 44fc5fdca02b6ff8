"""Exported agents, each with its own files, in processes without Lightning, Hydra or the other agents."""

from dof_lightning.deployment.agent import Agent, load_agent

__all__ = ["Agent", "load_agent"]
