"""What a denoiser is for: an algorithm and its denoiser must agree on it, and `configuration.check` sees to that."""

from typing import Literal

Diffuses = Literal["actions", "trajectories"]
