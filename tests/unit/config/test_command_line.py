"""Commands that are printed mean the same when they are pasted."""

import shlex
import subprocess
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from rich.console import Console

from dof_lightning import console
from dof_lightning.bench.job import command
from dof_lightning.cli import main as cli
from dof_lightning.config import compose as configuration
from dof_lightning.config.command_line import flags_first, for_hydra, for_shell, without_config_dirs
from dof_lightning.errors import UserError
from dof_lightning.training import fit, watchdog
from dof_lightning.training.start import command_further

NAMES = [
    *("runs/a", "runs/[seed0] a", "it's", 'a"b', "a\\", 'a\\"b', "a,b=c", "größe", "1", "1e5", "1_0", "true", "null"),
    *(" a ", "$HOME", "a${seed}", "{a: b}", "-x", "a(b)", "x[/y]", "a;b&c|d", "`a`", ":warning:", "#1"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_survives_shell_and_hydra(name: str) -> None:
    pasted = for_shell("printf", "%s", for_hydra("run_dir", name))
    (typed,) = [subprocess.run(["bash", "-c", pasted], capture_output=True, text=True, check=True).stdout]
    assert shlex.split(pasted)[-1] == typed
    config = configuration.to_plain(configuration.compose(["experiment=mpe_spread_random", typed]))
    assert config["run_dir"] == name


@pytest.mark.parametrize("name", ['runs/[seed0] größe, it\'s="1"', "x[/y]", "runs/a"])
def test_next_commands_can_be_pasted(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    further = ["python", "train.py", "experiment=mine", "algorithm.actor.hidden=[8,8]", for_hydra("run_dir", name)]
    screen = console.make_console()
    evaluate = ["dof", "eval", f"checkpoint={name}/last.ckpt"]
    commands = {"curves and videos": ["tensorboard", "--logdir", name], "train further": further, "evaluate": evaluate}
    console.show_next_commands(screen, commands)
    printed = [line[19:] for line in capsys.readouterr().out.splitlines()]
    assert [shlex.split(line) for line in printed] == [*commands.values()]
    assert "<" not in "".join(printed)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["train.py", "seed=1"], ["python", "train.py"]),
        (
            ["../dof/train.py", "--config-dir", "my conf", "seed=1"],
            ["python", "../dof/train.py", "--config-dir", "my conf"],
        ),
        (["train.py", "-m", "--config-dir=mine", "seed=1,2"], ["python", "train.py", "--config-dir", "mine"]),
        (["/usr/lib/joblib", "--pipe", "3"], ["python", "train.py"]),
    ],
)
def test_a_run_is_started_again_as_it_was(monkeypatch: pytest.MonkeyPatch, argv: list[str], words: list[str]) -> None:
    monkeypatch.setattr(HydraConfig, "initialized", staticmethod(lambda: True))
    monkeypatch.setattr("sys.argv", argv)
    assert configuration.program() == words


@pytest.mark.parametrize(
    ("typed", "moved"),
    [
        ("a=1 --config-dir mine b=2", "--config-dir mine a=1 b=2"),
        ("a=1 -m b=1,2 --info defaults ~tuned", "-m --info defaults a=1 b=1,2 ~tuned"),
        ("--info a=1 -c job", "--info -c job a=1"),
        ("a=1 --info --config-dir mine b=2", "--info --config-dir mine a=1 b=2"),
        ("a=1 --experimental-rerun config.pickle -m", "--experimental-rerun config.pickle -m a=1"),
        ("a=-1 b=2", "a=-1 b=2"),
    ],
)
def test_flags_may_stand_anywhere(typed: str, moved: str) -> None:
    assert flags_first(typed.split()) == moved.split()


def test_a_folder_of_options_is_handed_to_the_runs_of_a_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["dof", "bench", "--config-dir", str(tmp_path), "suite=mine.yaml"])
    words = command("mine.yaml", "one", tmp_path, tmp_path, keep=True)
    assert words[-2:] == ["--config-dir", str(tmp_path)]
    assert without_config_dirs(["suite=a", "--config-dir", str(tmp_path), f"-cd={tmp_path}", "b=1"]) == [
        "suite=a",
        "b=1",
    ]
    for words in (["list", "--config-dir"], ["--config-dir=", "list"], ["-cd="]):
        with pytest.raises(UserError, match="names no folder"):
            without_config_dirs(words)
    with pytest.raises(UserError, match="--config-dir nowhere: there is no such folder"):
        cli.run(["data", "list", "--config-dir=nowhere"])


def test_what_trains_further_keeps_what_was_typed() -> None:
    typed = ["experiment=mine", "run_dir=old", "+trainer.max_steps=20", "trust=true", "resume=never", "data.path='x y'"]
    words = command_further(Path("a b"), [*typed, "trainer.max_time=00:00:01:00"], 20, 20)
    assert words == [
        "python",
        "train.py",
        typed[0],
        "trust=true",
        "data.path='x y'",
        'run_dir="a b"',
        "trainer.max_steps=40",
    ]
    assert command_further(Path("a b"), [], 7, 20)[-1] == "trainer.max_steps=20", "stopped early"
    assert "rollout.until_plateau=5" in command_further(Path("a b"), ["rollout.until_plateau=5"], 20, 20)
    assert "rollout.until_plateau=5" not in command_further(Path("a b"), ["rollout.until_plateau=5"], 7, 20)


def test_the_last_words_of_a_job_can_be_pasted(capsys: pytest.CaptureFixture[str]) -> None:
    name = "runs/[0] a"
    expected = for_shell(for_hydra("run_dir", name))
    assert expected in watchdog.farewell("rank 1 is gone", name)
    with pytest.raises(SystemExit):
        fit._say_goodbye(3, 3, name, fit.signal.SIGTERM)
    assert expected in capsys.readouterr().err


def test_names_of_users_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    screen: Console = console.make_console()
    screen.print("runs/[seed0] [/y] :warning:", highlight=False)
    console.show_table(screen, ("run",), [("x[/y][red]",)])
    assert capsys.readouterr().out.split() == ["runs/[seed0]", "[/y]", ":warning:", "run", "x[/y][red]"]
