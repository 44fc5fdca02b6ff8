"""`dof data view`: one episode as a page that opens from disk, with its frames, rewards and actions."""

import base64
import html
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from data_modules.storage.arrays import Episodes
from data_modules.storage.manifest import DatasetManifest
from data_modules.storage.shards import read_shard
from dof_lightning.errors import UserError
from dof_lightning.files import write_atomically
from dof_lightning.pictures import encode_gif
from dof_lightning.spec import AgentSpec, check_same_world

if TYPE_CHECKING:
    from dof_lightning.envs.base import VectorEnv

_EXACT = 1e-3  # relative; rounding of a state that is read off observations stays far below
_FRAMES_PER_SECOND = 5.0
_BESIDE: Mapping[str, Any] = {
    "frameon": False,
    "fontsize": "small",
    "loc": "center left",
    "bbox_to_anchor": (1.0, 0.5),  # right of the box, so that curves fill the box
}
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.4 system-ui, sans-serif; max-width: 60em; margin: 1em auto; padding: 0 1em; }
h1 { font-size: 1.5em; }
th { text-align: left; vertical-align: top; padding-right: 1em; white-space: nowrap; }
td { overflow-wrap: anywhere; }
img { display: block; max-width: 100%; margin: 1em 0; }
.curves { overflow-x: auto; }
.curves svg { width: 100%; min-width: 36em; height: auto; }
@media (prefers-color-scheme: dark) { .curves svg { filter: invert(1) hue-rotate(180deg); } }
"""


def view(manifest: DatasetManifest, index: int, environment: "VectorEnv | None", path: Path) -> str | None:
    """Writes the page of an episode.

    Its actions are played again from its first state to draw frames, because datasets contain no pictures.

    Args:
        manifest: the dataset.
        index: the episode's place among those stored, from 0.
        environment: the environment that draws frames; None draws curves only.
        path: the page's file, which is replaced.

    Returns:
        the reason why there are no frames or not all, or None.

    Raises:
        UserError: there is no such episode, its shard is damaged, or the environment is another world.
    """
    episode = _read(manifest, index)
    frames, remark = _play(manifest, episode, environment)
    write_atomically(path, _page(manifest, index, episode, frames, remark))
    return remark


def _read(manifest: DatasetManifest, index: int) -> Episodes:
    """Reads one episode; its shard is read to the end, because only then its sha256 is verified."""
    if index >= manifest.n_episodes:
        raise UserError(
            f"episode={index} does not exist: {manifest.location} contains {manifest.n_episodes:,}, numbered from 0"
        )
    before, found = 0, None
    for shard in manifest.shards:
        if before + shard.n_episodes <= index:
            before += shard.n_episodes
            continue
        for rows in read_shard(manifest.url(shard), manifest.members, shard):
            if before <= index < before + rows.n_episodes:
                found = rows.select(np.array([index - before])).padded()
            before += rows.n_episodes
        break
    assert found is not None
    return found


def _play(
    manifest: DatasetManifest, episode: Episodes, environment: "VectorEnv | None"
) -> tuple[list[np.ndarray], str | None]:
    """The frames `[height, width, 3]` before, between and after the steps, and the reason why some are missing."""
    if environment is None:
        world = manifest.spec.environment.name
        return (
            [],
            f"no frames: the world of these data, {world!r}, is no option of env; if one is the same, add env=<name>",
        )
    name = environment.spec.name
    check_same_world(manifest.spec.name, manifest.spec.environment, environment.spec)
    if environment.missing is not None:
        return [], f"no frames: env={name} cannot be played: {environment.missing}"
    if not environment.can_render:
        return [], f"no frames: env={name} cannot draw"
    first = torch.from_numpy(episode.observations[:, :, 0])
    start = environment.reset_like(first)
    start = environment.reset(torch.zeros(1, dtype=torch.int64)) if start is None else start
    if not torch.allclose(start.cpu(), first, atol=1e-4):
        return [], f"no frames: env={name} cannot be set to the episode's first state"
    frames, actions = [environment.render(0)], torch.from_numpy(episode.actions)
    for step in range(int(episode.length[0])):
        result = environment.step(actions[:, :, step])
        recorded = episode.rewards[:, :, step]
        if (np.abs(result.rewards.cpu().numpy() - recorded) > _EXACT * (1 + np.abs(recorded))).any():
            return frames, f"frames end at step {step}: env={name} rewards the next one differently from the data"
        frames.append(environment.render(0))
    return frames, None


def _page(
    manifest: DatasetManifest, index: int, episode: Episodes, frames: list[np.ndarray], remark: str | None
) -> str:
    """Returns HTML that needs no network and no other file."""
    spec, rewards = manifest.spec, episode.rewards[0, :, : episode.length[0]]
    title = f"{spec.name}, episode {index}"
    facts = {
        "environment": spec.environment.name,
        "steps": f"{episode.length[0]}, {'terminated' if episode.terminated[0] else 'cut by the time limit'}",
        "return": f"{rewards.sum(axis=1).mean():.4g} (mean over agents)",
        "dataset": f"{manifest.location} ({manifest.n_episodes:,} episodes, mean return "
        f"{manifest.behavior['return_mean']:.4g}, fingerprint {spec.fingerprint})",
        "id in its source": str(episode.episode_id[0]),
    }
    rows = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>" for name, text in facts.items())
    gif = base64.b64encode(encode_gif(frames, _FRAMES_PER_SECOND)).decode() if frames else ""
    moving = f'<img alt="frames of the episode" src="data:image/gif;base64,{gif}">' if frames else ""
    note = "" if remark is None else f"<p>{html.escape(remark)}</p>"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>\n<table>{rows}</table>\n{note}{moving}\n"
        f'<div class="curves">{_curves(manifest, episode)}</div>\n</body></html>\n'
    )


def _curves(manifest: DatasetManifest, episode: Episodes) -> str:
    """Draws every agent's rewards, their sums and its actions as SVG without a background."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    agents, length = manifest.spec.environment.agents, int(episode.length[0])
    rewards = episode.rewards[0, :, :length]
    figure = Figure(figsize=(9, 2.2 * (2 + len(agents))), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots(2 + len(agents), 1, sharex=True)
    names = [agent.name for agent in agents]
    if (rewards == rewards[0]).all():  # curves that lie on each other would look like the last agent's alone
        names, rewards = ["every agent"], rewards[:1]
    for name, earned in zip(names, rewards, strict=True):
        axes[0].plot(range(1, length + 1), earned, label=name)
        axes[1].plot(range(length + 1), np.concatenate(([0.0], earned.cumsum())), label=name)
    axes[0].set(ylabel="reward")
    axes[0].legend(**_BESIDE)
    axes[1].set(ylabel="sum of rewards")
    for ax, agent, acts in zip(axes[2:], agents, episode.actions[0], strict=True):
        _draw_actions(ax, agent, acts[:length])
    axes[-1].set(xlabel="step")
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
    return text.getvalue()[text.getvalue().index("<svg") :]


def _draw_actions(ax: Any, agent: AgentSpec, actions: np.ndarray) -> None:
    """Draws one agent's actions: a line per dimension `[L, A]`, or a point per choice `[L]`."""
    steps = np.arange(1, len(actions) + 1)
    if actions.ndim == 1:
        ax.plot(steps, actions, ".")
        ax.set(ylabel=f"choice of {agent.name}", ylim=(-0.5, agent.action_dim - 0.5))
        return
    for dimension in range(agent.action_dim):
        ax.plot(steps, actions[:, dimension], drawstyle="steps-mid", label=f"{dimension}")
    ax.set(ylabel=f"actions of {agent.name}", ylim=(-1.05, 1.05))
    ax.legend(title="dimension", title_fontsize="small", **_BESIDE)
