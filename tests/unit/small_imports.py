"""Small sources in others' formats, written by numpy, tensorstore's own writer flashbax, or minari."""

from pathlib import Path

import numpy as np

OMAR_SIZES = ((16, 2), (16, 2), (16, 2), (14, 2))  # three predators of Tag and their prey
HORIZON = 25


def write_omar(path: Path, n_episodes: int, seed: int = 0, sizes: tuple[tuple[int, int], ...] = OMAR_SIZES) -> None:
    """One `seed_*_data` folder."""
    rng = np.random.default_rng(seed)
    path.mkdir(parents=True)
    for i, (observation, action) in enumerate(sizes):
        seen = rng.normal(size=(n_episodes, HORIZON + 1, observation)).astype(np.float32)
        rows = n_episodes * HORIZON
        np.save(path / f"obs_{i}.npy", seen[:, :-1].reshape(rows, -1))
        np.save(path / f"next_obs_{i}.npy", seen[:, 1:].reshape(rows, -1))
        np.save(path / f"acs_{i}.npy", rng.uniform(-1, 1, (rows, action)).astype(np.float32))
        np.save(path / f"rews_{i}.npy", rng.normal(size=(rows, 1)))
        np.save(path / f"dones_{i}.npy", np.zeros((rows, 1)))


def timeline(lengths: list[int], n_agents: int = 2, seed: int = 0) -> dict[str, np.ndarray]:
    """Arrays `[T, N, ...]` of battles of given lengths; the last one of them reached its time limit."""
    rng, total = np.random.default_rng(seed), sum(lengths)
    ends = np.cumsum(lengths) - 1
    terminals, truncations = np.zeros((total, n_agents), bool), np.zeros((total, n_agents), bool)
    terminals[ends[:-1]], truncations[ends[-1]] = True, True
    legal = rng.random((total, n_agents, 4)) < 0.6
    actions = rng.integers(0, 4, (total, n_agents))
    np.put_along_axis(legal, actions[..., None], True, axis=-1)
    return {
        "observations": rng.normal(size=(total, n_agents, 5)).astype(np.float32),
        "actions": actions,
        "rewards": np.repeat(rng.normal(size=(total, 1)).astype(np.float32), n_agents, axis=1),
        "terminals": terminals,
        "truncations": truncations,
        "legal": legal,
        "state": rng.normal(size=(total, 7)).astype(np.float32),
    }


def write_vault(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """A real vault, `path/battle.vlt/Good`, written by flashbax."""
    import flashbax
    import jax
    import jax.numpy as jnp
    from flashbax.vault import Vault

    infos = {"legals": arrays["legal"], "state": arrays["state"]}
    names = ("observations", "actions", "rewards", "terminals", "truncations")
    rows = {name: arrays[name] for name in names} | {"infos": infos}
    first = jax.tree.map(lambda array: jnp.asarray(array[0]), rows)
    total = len(arrays["rewards"])
    buffer = flashbax.make_trajectory_buffer(
        add_batch_size=1,
        sample_batch_size=1,
        sample_sequence_length=1,
        period=1,
        min_length_time_axis=1,
        max_length_time_axis=total + 1,
    )
    state = buffer.add(buffer.init(first), jax.tree.map(lambda array: jnp.asarray(array[None]), rows))
    Vault("battle.vlt", state.experience, rel_dir=str(path), vault_uid="Good").write(state)


def write_madiff(path: Path, arrays: dict[str, np.ndarray], lengths: list[int], identities: bool = True) -> None:
    path.mkdir(parents=True)
    n_agents = arrays["actions"].shape[1]
    ids = np.broadcast_to(np.eye(n_agents, dtype=np.float32), (len(arrays["actions"]), n_agents, n_agents))
    seen = np.concatenate([ids, arrays["observations"]], axis=2) if identities else arrays["observations"]
    files = {"obs": seen, "actions": arrays["actions"], "rewards": arrays["rewards"], "legals": arrays["legal"]}
    for name, array in (files | {"path_lengths": np.array(lengths)}).items():
        np.save(path / f"{name}.npy", array)
