"""dof-lightning: offline multi-agent reinforcement learning with factorised diffusion models."""

import os

__version__ = "0.1.0"

# Read when torch loads OpenMP. Threads that spin while they wait make two processes on the same cores twenty times
# slower than one after the other (measured: 3 against 75 small updates a second); sleeping ones share them.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
