"""Output, files and refusals of `dof data`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from data_modules.behavior.function import FunctionBehavior
from data_modules.storage.manifest import read_manifest
from dof_lightning.cli import main as cli
from dof_lightning.config import catalog, checks
from dof_lightning.config import compose as configuration
from dof_lightning.config.catalog import known_datasets
from dof_lightning.errors import UserError
from tests.fixtures.dataset_files import build, make_episodes
from tests.fixtures.small_spec import small_spec


def test_every_dataset_of_the_configuration_is_known_with_a_command_that_names_it() -> None:
    known = known_datasets()
    assert len(known) == len(catalog.options("data"))
    commands = {dataset.name: dataset.build for dataset in known}
    assert commands["mpe_spread_medium"] == "dof data build experiment=mpe_spread_medium"
    assert commands["smac_3m_good"].endswith("env=smac_3m name=smac_3m_good")
    built = [command.removeprefix("dof data build ") for command in commands.values() if " build " in command]
    for typed in built[::10]:  # to compose them all takes long
        checks.check(configuration.compose(typed.split()))


def test_the_list_tells_what_is_there_and_how_to_make_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(tmp_path / "mine", make_episodes(50), name="mpe_spread_medium")
    cli.run(["data", "list", f"data.root={tmp_path}"])
    printed = capsys.readouterr().out
    on_disk, missing = printed.split("known, not on disk")
    assert "mpe_spread_medium" in on_disk
    assert "experiment=mpe_spread_expert" in missing
    assert "experiment=mpe_spread_medium " not in missing


@pytest.mark.parametrize("command", ["list data.root={root}", "show {root}/mine"])
def test_looking_at_datasets_loads_neither_torch_nor_hydra(tmp_path: Path, command: str) -> None:
    build(tmp_path / "mine", make_episodes(50))
    code = (
        "import sys; from dof_lightning.cli.main import run; run(sys.argv[1:]); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'lightning', 'hydra')))"
    )
    typed = ["data", *command.format(root=tmp_path).split()]
    subprocess.run([sys.executable, "-c", code, *typed], check=True, timeout=60)


def test_statistics_and_their_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    build(tmp_path / "toy", make_episodes(50))
    cli.run(["data", "stats", "toy", "--plot"])
    assert json.loads(capsys.readouterr().out)["episodes"] == 50
    assert (tmp_path / "toy_dataset.png").stat().st_size > 1000
    cli.run(["data", "stats", "toy", "output=mine.png"])
    assert (tmp_path / "mine.png").exists()
    with pytest.raises(UserError, match=r"end in \.png"):
        cli.run(["data", "stats", "toy", "output=mine.jpg"])


def test_cutting_and_merging(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(tmp_path / "toy", make_episodes(50))
    for name, range_ in (("low", "[0,0.5]"), ("high", "[0.5,1]")):
        cli.run(
            [
                "data",
                "subsample",
                f"dataset={tmp_path}/toy",
                f"name={name}",
                f"quantiles={range_}",
                f"data.root={tmp_path}",
            ]
        )
    cli.run(["data", "merge", f"datasets=[{tmp_path}/low,{tmp_path}/high]", "name=both", f"data.root={tmp_path}"])
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "both")
    cli.run(["data", "verify", str(tmp_path / "both")])
    cli.run(["data", "show", str(tmp_path / "both")])
    assert "merged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["merge", "datasets=[a,b]"], "name= is missing"),
        (["merge", "datasets=a", "name=x"], "must be a list"),
        (["subsample", "name=x"], "dataset= is missing"),
        (["subsample", "dataset=a", "name=x/y"], "plain name"),
        (["subsample", "dataset=a", "name=.."], "plain name"),
        (["subsample", "dataset=a", "name=x", "quantiles=["], "cannot be read"),
        (["import", "format=omar", "source=a", "name=x", "discount=high"], "must be a number above 0"),
        (["import", "format=omar", "source=a", "name=x", "horizon=0"], "at least 1"),
        (["import", "format=omar", "source=a", "name=x", "env.prey=still"], "add env="),
        (["import", "format=omar", "source=a", "name=x", "+env.arguments.limit=3"], "add env="),
        (["collect", "policy=p:f", "name=x", "episodes=5", "trust=true"], "env= is missing"),
        (["subsample", "dataset=a", "name=x", "episodes=many"], "must be an integer"),
        (["subsample", "dataset=a", "name=x", "fraction=1"], "takes dataset="),
        (["list", "root=x"], "takes data.root="),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        cli.run(["data", *arguments])


POLICY = """
import torch

def still(observations, legal, noise):
    return torch.zeros_like(noise)

def wrong(observations, legal, noise):
    return noise[:, 0]

def large(observations, legal, noise):
    return 2 + noise

def blind(noise):
    return noise
"""


def test_a_function_collects(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_policy.py").write_text(POLICY)
    common = ["data", "collect", "env=mpe_spread", "name=mine", "episodes=20", f"data.root={tmp_path}"]
    with pytest.raises(UserError, match="trust=true"):
        cli.run([*common, "policy=my_policy:still"])
    with pytest.raises(UserError, match="expected numbers"):
        cli.run([*common, "policy=my_policy:wrong", "trust=true"])
    with pytest.raises(UserError, match="not within -1 to 1"):
        cli.run([*common, "policy=my_policy:large", "trust=true"])
    with pytest.raises(UserError, match="cannot be imported"):
        cli.run([*common, "policy=my_policy:none", "trust=true"])
    with pytest.raises(UserError, match=r"my_policy:blind is blind\(noise\), but is called with three arguments"):
        cli.run([*common, "policy=my_policy:blind", "trust=true"])
    cli.run([*common, "policy=my_policy:still", "trust=true"])
    printed = capsys.readouterr()
    path = Path(printed.out.splitlines()[-1])
    command = printed.err.splitlines()[-1].removeprefix("train on it: dof train ").split()
    assert configuration.compose(command).data.path == str(path)
    manifest = read_manifest(path)
    assert manifest.n_episodes == 20
    assert manifest.spec.statistics.actions is not None
    assert float(abs(manifest.spec.statistics.actions.maximum).max()) == 0.0


def test_a_compiled_function_has_no_signature_to_refuse() -> None:
    assert FunctionBehavior("torch:lerp").policies(small_spec().environment)
