"""`dof data view`: the page of an episode shows that episode, and says why where it shows no frames."""

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from data_modules.storage.arrays import Episodes, concatenate
from data_modules.storage.manifest import DatasetManifest, read_episodes, read_manifest
from data_modules.tools import view
from dof_lightning.cli import main as cli
from dof_lightning.envs.base import StepResult
from dof_lightning.envs.particle.env import ParticleEnv
from dof_lightning.errors import UserError
from tests.fixtures.dataset_files import build, make_episodes


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    """Thirty episodes of random agents."""
    root = tmp_path_factory.mktemp("data")
    cli.run(["data", "build", "experiment=mpe_spread_random", "data.episodes=30", f"data.root={root}"])
    (folder,) = root.glob("mpe_spread_random*")
    return read_manifest(folder)


def episode_of(manifest: DatasetManifest, index: int) -> Episodes:
    return concatenate(list(read_episodes(manifest))).select(np.array([index])).padded()


def frames_in(page: Path) -> Image.Image | None:
    found = re.search(r'src="data:image/gif;base64,([^"]+)"', page.read_text())
    return None if found is None else Image.open(io.BytesIO(base64.b64decode(found[1])))


@pytest.mark.parametrize("typed", ["{path}", "data.path={path}"])
def test_the_page_has_frames_and_curves_of_the_episode(
    spread: DatasetManifest, capsys: pytest.CaptureFixture[str], typed: str
) -> None:
    cli.run(["data", "view", typed.format(path=spread.location), "episode=23"])
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("mpe_spread_random_episode_23.html\n", "")
    page, episode = Path(printed.out.strip()), episode_of(spread, 23)
    text, gif = page.read_text(), frames_in(page)
    assert gif is not None
    assert gif.n_frames == int(episode.length[0]) + 1  # type: ignore[attr-defined]
    environment = ParticleEnv("spread")
    environment.reset_like(torch.from_numpy(episode.observations[:, :, 0]))
    shown = np.asarray(gif.convert("RGB"), dtype=int)
    assert np.abs(shown - environment.render(0)).mean() < 2  # a GIF has 256 colours
    assert f"{episode.rewards.sum(axis=2).mean():.4g} (mean over agents)" in text
    assert text.count("<svg") == 1
    assert not re.findall(r"<script|(?:src|href)=\"(?!data:|#)", text), "it must open from disk, without network"


def test_curves_are_shown_where_nothing_can_be_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for discrete in (False, True):
        folder = tmp_path / f"discrete_{discrete}"
        build(folder, make_episodes(20, discrete=discrete), discrete=discrete)
        cli.run(["data", "view", str(folder), "episode=19", f"output={folder}.html"])
        assert (
            "no frames: the world of these data, 'toy', is no option of env; if one is the same, add env=<name>"
            in capsys.readouterr().err
        )
        page = tmp_path / f"discrete_{discrete}.html"
        assert frames_in(page) is None
        assert "no frames" in page.read_text()
        assert "<svg" in page.read_text()


@pytest.mark.parametrize("shared", [True, False])
def test_rewards_of_the_team_are_one_named_curve(tmp_path: Path, shared: bool) -> None:
    episodes = make_episodes(20)
    rewards = episodes.rewards[:, :1].repeat(episodes.rewards.shape[1], axis=1) if shared else episodes.rewards
    build(tmp_path / "data", replace(episodes, rewards=rewards))
    view.view(read_manifest(tmp_path / "data"), 0, None, tmp_path / "page.html")
    assert ("every agent" in (tmp_path / "page.html").read_text()) == shared


class Generous(ParticleEnv):
    """Spread that pays twice from the third step on."""

    def step(self, actions: Tensor) -> StepResult:
        result = super().step(actions)
        return replace(result, rewards=result.rewards * (2 if self._time > 2 else 1))


class Elsewhere(ParticleEnv):
    """Spread that cannot be set to a state."""

    def reset_like(self, observations: Tensor) -> Tensor | None:
        return None


def test_frames_that_are_not_the_episode_s_are_not_shown(spread: DatasetManifest, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert str(view.view(spread, 3, Generous("spread"), page)).startswith("frames end at step 2: env=mpe_spread")
    gif = frames_in(page)
    assert gif is not None
    assert gif.n_frames == 3  # type: ignore[attr-defined]
    assert "cannot be set to the episode's first state" in str(view.view(spread, 3, Elsewhere("spread"), page))
    assert frames_in(page) is None


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["{path}"], "episode= is missing"),
        (["{path}", "episode=-1"], "episode must be an integer, at least 0, got '-1'"),
        (["{path}", "episode=30"], "episode=30 does not exist: .* contains 30, numbered from 0"),
        (["{path}", "episode=3", "output=page.gif"], "output=page.gif must end in .html"),
        (["{path}", "episode=3", "output=nowhere/page.html"], "there is no folder nowhere"),
        (["{path}", "episode=3", "frames=2"], "frames=2 has no effect beside a dataset's folder"),
        (["{path}", "episode=3", "env=mpe_tag"], "mpe_tag"),
        (["nowhere", "episode=3"], "nowhere"),
        (["episode=3"], "no dataset is named"),
        (["experiment=mpe_spread_random", "data.root=empty", "episode=3"], "does not exist; build it with"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_are_one_line(spread: DatasetManifest, tmp_path: Path, typed: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        cli.run(["data", "view", *(word.format(path=spread.location) for word in typed)])
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
