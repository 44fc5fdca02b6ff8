"""dof-lightning: offline multi-agent reinforcement learning with factorised diffusion models."""

__version__ = "0.1.0"
