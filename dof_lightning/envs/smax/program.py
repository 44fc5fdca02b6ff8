"""SMAX's battles as two compiled functions of whole batches; all use of jax is in this module.

SMAX: Rutherford et al., "JaxMARL: Multi-Agent RL Environments and Algorithms in JAX" (NeurIPS 2024), package jaxmarl.
"""

import importlib.metadata
import importlib.util
import io
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from functools import cache
from typing import Any, cast

import numpy as np

from dof_lightning.errors import UserError

RELEASE = "0.2"  # jaxmarl's version in the recipe and the tests; another one may simulate a different battle
INSTALL = "pip install -c constraints.txt -e '.[smax]'"

_SMALLEST_BATCH = 128


@cache
def load_program(name: str) -> "SMAXProgram":
    """Returns the functions of a map, compiled once per process.

    Raises:
        UserError: jaxmarl is not installed, or is another release.
    """
    if missing := what_is_missing(name):
        raise UserError(missing)
    return SMAXProgram(name)


def what_is_missing(name: str) -> str | None:
    """The reason why a map cannot be played here, and the command to install it; None if it can."""
    if importlib.util.find_spec("jaxmarl") is None:
        return f"env.map={name}: SMAX needs the package jaxmarl; install it with: {INSTALL}"
    found = importlib.metadata.version("jaxmarl")
    if not found.startswith(f"{RELEASE}."):
        return f"env.map={name}: jaxmarl {found} is installed, SMAX was tested with {RELEASE}: {INSTALL}"
    return None


def padded_size(n_episodes: int) -> int:
    """The number of battles simulated for a requested number: powers of two, so that few sizes are compiled."""
    return max(_SMALLEST_BATCH, 1 << (n_episodes - 1).bit_length())


class SMAXProgram:
    """Reset and step of E battles of one map, with E from `padded_size`.

    jax runs on the CPU, in one thread, unless `JAX_PLATFORMS` and `XLA_FLAGS` specify otherwise: battles are small,
    torch uses the GPU, and more threads than cores would slow both down.

    Args:
        name: the map.
    """

    def __init__(self, name: str) -> None:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
        with _silence():
            import jax
            from jaxmarl import make
            from jaxmarl.environments.smax.smax_env import MAP_NAME_TO_SCENARIO
        self._env = cast(Any, make("HeuristicEnemySMAX", scenario=MAP_NAME_TO_SCENARIO[name]))
        self.n_allies, self.n_enemies = self._env.num_allies, self._env.num_enemies
        self.observation_dim, self.state_dim = self._env.obs_size, self._env.state_size
        self.horizon = self._env.max_steps
        self.reset = jax.jit(jax.vmap(self._reset))
        self.step = jax.jit(jax.vmap(self._step))

    def _reset(self, seed: Any) -> tuple[Any, Mapping[str, Any]]:
        """Starts a battle from a seed `[2]` uint32; returns the battle and its observations."""
        observations, battle = self._env.reset(_stream(seed, 0))
        return _typed(battle, battle), self._look(observations, battle)

    def _step(self, seed: Any, battle: Any, actions: Any) -> tuple[Any, Mapping[str, Any]]:
        """Takes one step of actions `[N]`; its randomness is a function of the seed and the time."""
        chosen = {agent: actions[i] for i, agent in enumerate(self._env.agents)}
        key = _stream(seed, battle.state.step + 1)
        observations, after, rewards, _, _ = self._env.step_env(key, battle, chosen)
        return _typed(after, battle), self._look(observations, after) | {"reward": rewards[self._env.agents[0]]}

    def _look(self, observations: Any, battle: Any) -> dict[str, Any]:
        import jax.numpy as jnp

        units, legal = battle.state, self._env.get_avail_actions(battle)
        ours, theirs = jnp.split(units.unit_alive, [self.n_allies])
        return {
            "observations": jnp.stack([observations[agent] for agent in self._env.agents]),
            "state": observations["world_state"],
            "legal": jnp.stack([legal[agent] for agent in self._env.agents]).astype(bool),
            "alive": ours,
            "over": ~ours.any() | ~theirs.any(),
            "won": ours.any() & ~theirs.any(),
            "positions": units.unit_positions,
            "health": units.unit_health / self._env.unit_type_health[units.unit_types],
            "radii": self._env.unit_type_radiuses[units.unit_types],
        }


@contextmanager
def _silence() -> Iterator[None]:
    """Prints nothing: jaxmarl prints a greeting on import, after setting `sys.stdout` to `sys.__stdout__`."""
    kept, nowhere = sys.__stdout__, io.StringIO()
    sys.__stdout__ = nowhere  # type: ignore[misc, assignment]
    try:
        with redirect_stdout(nowhere):
            yield
    finally:
        sys.__stdout__ = kept  # type: ignore[misc]


def split_seeds(seeds: np.ndarray, size: int) -> np.ndarray:
    """Splits `[E]` int64 into `[size, 2]` uint32; the last one is repeated after the end."""
    padded = np.concatenate([seeds, np.repeat(seeds[-1:], size - len(seeds))]).astype(np.uint64)
    return np.stack([padded & np.uint64(0xFFFFFFFF), padded >> np.uint64(32)], axis=1).astype(np.uint32)


def _typed(battle: Any, like: Any) -> Any:
    """Casts a battle to the element types of another, so that all steps use the same compiled program."""
    import jax
    import jax.numpy as jnp

    return jax.tree.map(lambda array, model: jnp.asarray(array, dtype=model.dtype), battle, like)


def _stream(seed: Any, step: Any) -> Any:
    import jax

    return jax.random.fold_in(jax.random.fold_in(jax.random.PRNGKey(seed[0]), seed[1]), step)
