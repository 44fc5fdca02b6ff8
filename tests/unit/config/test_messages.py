"""Answers to typing mistakes: the nearest name that exists, and the spelling of values that Hydra cannot parse."""

import errno
import shlex
from types import SimpleNamespace

import pytest

from dof_lightning.cli import main as cli
from dof_lightning.config import checks, messages
from dof_lightning.config import compose as configuration
from dof_lightning.errors import UserError

EXPERIMENT = "experiment=mpe_spread_random"


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (("experiment=mpe_spred_expert",), "did you mean mpe_spread_expert"),
        (("experiment=mpe_spred",), "did you mean mpe_spread_"),
        (("algorithm=dof_polcy",), "did you mean dof_policy"),
        (("algorithm=TD3_BC",), "did you mean td3_bc"),
        (("experiment=MPE_Spread_Expert",), "did you mean mpe_spread_expert?"),
        ((EXPERIMENT, "denoiser=MLP"), "did you mean mlp?"),
        ((EXPERIMENT, "env=Mpe_Tag"), "did you mean mpe_tag?"),
        ((EXPERIMENT, "trainer.Max_Steps=3"), "did you mean `trainer.max_steps`"),
        ((EXPERIMENT, "lr=0.1"), "unknown key `lr`; did you mean `algorithm.learning_rate`"),
        ((EXPERIMENT, "algorithm.lr=0.1"), "unknown key `algorithm.lr`; did you mean `algorithm.learning_rate`"),
        ((EXPERIMENT, "batch_size=3"), "did you mean `data.global_batch_size`"),
        ((EXPERIMENT, "max_stepz=3"), "did you mean `trainer.max_steps`"),
        ((EXPERIMENT, "zzzzzzzz=3"), "--cfg job` shows all keys"),
        (("env=pettingzoo", "env.horizn=40"), "did you mean `env.horizon`"),
        (("experiment=none", "data=data/zzzz"), "data=data/zzzz does not exist; choose one of game_"),
        (("experiment=none", "data=zzzzzzzz"), "or a dataset of your own; `dof data list` shows those"),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else None,
)
def test_the_nearest_that_exists_is_suggested(typed: tuple[str, ...], words: str) -> None:
    with pytest.raises(UserError) as error:
        configuration.compose(typed)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("typed", "key", "value"),
    [
        ("run_dir=a'b", "run_dir", "a'b"),
        ("run_dir=größe", "run_dir", "größe"),
        ("run_dir='a", "run_dir", "'a"),
        ("run_dir=a(b", "run_dir", "a(b"),
        ("run_dir=a=b", "run_dir", "a=b"),
        ("run_dir=a b,", "run_dir", "a b,"),
        ("run_dir=[1", "run_dir", "[1"),
    ],
)
def test_what_hydra_cannot_read_is_answered_with_how_to_write_it(typed: str, key: str, value: str) -> None:
    with pytest.raises(UserError) as error:
        configuration.compose([EXPERIMENT, typed])
    line = str(error.value)
    assert line.startswith(f"cannot read {typed!r}")
    assert not any(word in line for word in ("mismatched", "LexerNoViable", "viable alternative", "token recognition"))
    (proposed,) = shlex.split(line.partition("other characters as ")[2])
    assert configuration.to_plain(configuration.compose([EXPERIMENT, proposed]))[key] == value


@pytest.mark.parametrize("typed", ["foo", "=3", "algorithm=3", "a.b.=3", "trainer..devices=2"])
def test_what_is_no_override_is_one_line(typed: str) -> None:
    with pytest.raises(UserError, match=r"cannot read|unknown key"):
        configuration.compose([EXPERIMENT, typed])


@pytest.mark.parametrize(
    "typed",
    ["algorithm=bc,td3_bc", "seed=1,2", "algorithm.q_weight=1,3", "seed=range(1,5)", "run_dir=a,b", "+mine='a',b"],
)
def test_several_values_for_one_run_are_one_line_that_says_to_add_m(typed: str) -> None:
    with pytest.raises(UserError) as error:
        configuration.compose([EXPERIMENT, typed])
    line = str(error.value)
    assert line.startswith(f"{typed} names several values: add -m")
    assert "Ambiguous" not in line
    for proposed in shlex.split(line.partition("; write a list as ")[2].replace(", text as", ""))[:2]:
        configuration.compose([EXPERIMENT, proposed])


@pytest.mark.parametrize("typed", ["algorithm=[bc,td3_bc]", "denoiser=[mlp,mlp_shared]", "data=[mpe_tag_random]"])
def test_a_list_of_options_is_refused(typed: str) -> None:
    with pytest.raises(UserError, match="an option of a group is one name") as error:
        configuration.compose([EXPERIMENT, typed])
    assert str(error.value).startswith(typed.partition("[")[0])


@pytest.mark.parametrize("key", ["run_dir", "resume", "data.path", "data.root"])
def test_an_empty_folder_is_refused(key: str) -> None:
    """`run_dir=$FOLDER` with nothing in it must not train into the current folder."""
    with pytest.raises(UserError, match=f"{key}= is empty"):
        checks.check(configuration.compose([EXPERIMENT, f"{key}="]))


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "runs/mine may not be read or written here"),
        (errno.EROFS, "runs/mine may not be read or written here"),
        (errno.ENAMETOOLONG, "a name is too long for this disk (runs/mine)"),
        (errno.ENOSPC, "the disk is full (runs/mine)"),
    ],
)
def test_what_the_system_refuses_is_one_line(number: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        raise OSError(number, "told by the system", "runs/mine")

    assert messages.exit_with_one_line(fails) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (("evl",), "dof has no command `evl`; did you mean eval?"),
        (("zzz",), "choose one of train, eval, export, certify"),
        ((), "dof needs a command; `dof eval checkpoint=<run_dir>` for example"),
        (("eval",), "checkpoint= is missing"),
        (("igd",), "checkpoint= is missing"),
        (("eval", "checkpoint="), "checkpoint= is empty"),
        (("igd", "checkpoint={file}", "compare="), "compare= is empty"),
        (("data", "list", "data.root="), "data.root= is empty"),
        (("data",), "dof data needs a command"),
        (("data", "lst"), "dof data has no command `lst`; did you mean list"),
        (("data", "list", "--long"), "--long"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_dof_answers_in_one_line(typed: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert messages.exit_with_one_line(lambda: cli.run([text.format(file=__file__) for text in typed])) == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert (printed.out, printed.err.count("\n")) == ("", 1)


def test_a_reader_that_has_seen_enough_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[tuple[int, int]] = []
    monkeypatch.setattr(messages.os, "dup2", lambda *pair: closed.append(pair))

    def print_on() -> None:
        raise BrokenPipeError

    monkeypatch.setattr(messages.sys, "stdout", SimpleNamespace(fileno=lambda: 1))
    assert messages.exit_with_one_line(print_on) == 141
    assert [standard for _, standard in closed] == [1]
