"""Options and classes of installed packages of others are found by their entry point, and only by it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dof_lightning.algorithms.bc import BCSettings
from dof_lightning.config import catalog, checks
from dof_lightning.config import compose as configuration
from dof_lightning.config.plugins import plugins
from dof_lightning.config.targets import check_targets
from dof_lightning.envs.particle.env import ParticleEnv
from dof_lightning.errors import UserError
from tests.fixtures.plugin_package import install

EXPERIMENT = "experiment=mpe_spread_random"


@pytest.fixture(autouse=True)
def _nothing_is_remembered() -> Iterator[None]:
    remembered = (plugins, catalog._files, catalog._data_content)
    for function in remembered:
        function.cache_clear()
    yield
    for function in remembered:
        function.cache_clear()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(install(tmp_path))


@pytest.mark.usefixtures("installed")
def test_an_installed_option_is_typed_listed_checked_and_built_without_trust() -> None:
    assert "careful" in catalog.options("algorithm")
    cfg = configuration.compose([EXPERIMENT, "algorithm=careful", "env=careful_spread", "algorithm.care=0.25"])
    checks.check(cfg)
    settings, world = configuration.build(cfg.algorithm), configuration.build(cfg.env)
    assert isinstance(settings, BCSettings)
    assert type(settings).__module__ == "careful.cloning"
    assert settings.care == 0.25  # type: ignore[attr-defined]
    assert isinstance(world, ParticleEnv)
    with pytest.raises(UserError, match=r"^algorithm\.care must be a number, got 'much'"):
        checks.check(configuration.compose([EXPERIMENT, "algorithm=careful", "algorithm.care=much"]))


@pytest.mark.usefixtures("installed")
def test_an_installed_option_is_among_those_that_fit() -> None:
    config = configuration.to_plain(configuration.compose(["experiment=game_payoff_1", "algorithm=td3_bc"]))
    with pytest.raises(UserError, match=r"does not learn discrete actions.* choose algorithm=bc or careful or"):
        checks.check_action_kind(config, configuration.build(config["env"]).spec)


@pytest.mark.usefixtures("installed")
def test_what_an_installed_package_imports_is_not_trusted_with_it() -> None:
    with pytest.raises(UserError, match=r"careful\.cloning\.dataclass.* is outside .*, careful; pass trust=true"):
        check_targets({"algorithm": {"_target_": "careful.cloning.dataclass"}})


def test_the_same_package_without_its_entry_point_is_a_stranger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(install(tmp_path, entry=""))
    assert "careful" not in catalog.options("algorithm")
    with pytest.raises(UserError, match="is outside"):
        check_targets({"algorithm": {"_target_": "careful.cloning.CarefulSettings"}})


@pytest.mark.parametrize("value", ["nowhere", "careful.conf"])
def test_an_entry_point_that_names_no_package_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.syspath_prepend(install(tmp_path, entry=f"mine = {value}"))
    with pytest.raises(UserError, match=rf"^the plug-in mine={value} of careful names no package"):
        configuration.compose([EXPERIMENT, f"seed={len(value)}"])
