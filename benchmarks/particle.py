"""Steps per second of the particle world against mpe2 and jaxmarl, on one core."""

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from benchmarks.table import Row, ratio
from dof_lightning.envs.particle.env import HORIZON, ParticleEnv
from dof_lightning.evaluation.timing import interleaved

N_ENVIRONMENTS = 256


def particle(n_environments: int = N_ENVIRONMENTS, repetitions: int = 15) -> list[Row]:
    """Whole episodes of random actions; mpe2 plays one at a time, the others all at once."""
    with _one_core():
        functions: dict[str, Callable[[], object]] = {"ours": partial(play, ParticleEnv("spread"), n_environments)}
        if _installed("mpe2"):
            from mpe2 import simple_spread_v3

            env = simple_spread_v3.parallel_env(N=3, max_cycles=HORIZON, continuous_actions=True)
            functions["mpe2"] = partial(play_mpe2, env)
        if _installed("jaxmarl"):
            functions["jaxmarl"] = make_jaxmarl(n_environments)
        seconds = interleaved(functions, repetitions)
    what = f"spread, {n_environments} environments"
    rows = []
    for name, against, episodes, aim in (
        ("mpe2", "mpe2 simple_spread_v3", 1, ">= 100"),
        ("jaxmarl", "jaxmarl MPE simple_spread, vmap + jit + scan", n_environments, ">= 1"),
    ):
        if name not in functions:
            rows.append(Row("particle", what, against, None, aim, f"{name} not installed"))
            continue
        speed = ratio(seconds[name], seconds["ours"]) * n_environments / episodes
        rows.append(Row("particle", what, against, speed, aim, "steps a second, one core"))
    return rows


def play(env: ParticleEnv, n_environments: int) -> int:
    """Plays one episode of every environment; returns the number of steps."""
    env.reset(torch.arange(n_environments))
    generator = torch.Generator().manual_seed(0)
    for _ in range(HORIZON):
        env.step(torch.rand(n_environments, 3, 2, generator=generator) * 2 - 1)
    return HORIZON * n_environments


def play_mpe2(env: Any) -> int:
    """Plays one episode of mpe2; returns the number of steps."""
    env.reset(seed=0)
    steps = 0
    while env.agents:
        env.step({agent: env.action_space(agent).sample() for agent in env.agents})
        steps += 1
    return steps


def make_jaxmarl(n_environments: int) -> Callable[[], object]:
    """Compiles one episode of every environment into a single function."""
    import jax
    from jaxmarl import make

    env = make("MPE_simple_spread_v3", action_type="Continuous")
    reset, step = jax.vmap(env.reset), jax.vmap(env.step_env)

    def draw(key: Any) -> dict[str, Any]:
        keys = jax.random.split(key, len(env.agents))
        spaces = env.action_spaces
        return {
            agent: jax.random.uniform(k, (n_environments, *spaces[agent].shape))
            for agent, k in zip(env.agents, keys, strict=True)
        }

    def move(carry: Any, key: Any) -> Any:
        _, state = carry
        keys = jax.random.split(key, n_environments)
        observations, state, rewards, *_ = step(keys, state, draw(key))
        return (observations, state), (observations, rewards)

    def episode(key: Any) -> Any:
        start = reset(jax.random.split(key, n_environments))
        return jax.lax.scan(move, start, jax.random.split(key, HORIZON))

    compiled, key = jax.jit(episode), jax.random.PRNGKey(0)
    wait: Any = jax.block_until_ready
    return lambda: wait(compiled(key))


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


@contextmanager
def _one_core() -> Iterator[None]:
    """Uses one torch thread, on one core if the system lets us choose; threads started inside stay there too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else None
    if cores is not None:
        os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if cores is not None:
            os.sched_setaffinity(0, cores)
