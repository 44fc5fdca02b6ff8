"""`dof`: everything besides training. Every command ends in `key=value` overrides, the same as those of `train.py`."""

import argparse
import re
import runpy
import sys
from collections.abc import Sequence
from typing import NoReturn

from dof_lightning import __version__
from dof_lightning.cli import data as data_commands
from dof_lightning.cli.checkpoints import COMMANDS
from dof_lightning.config.catalog import CONF_DIR
from dof_lightning.config.command_line import without_config_dirs
from dof_lightning.config.messages import exit_with_one_line, nearest
from dof_lightning.errors import UserError

_TRAIN_HELP = "train as `python train.py` does, from any folder: dof train experiment=<dataset> [key=value ...]"
_BENCH_HELP = (
    "run a suite as a queue that can be killed and resumed: dof bench suite=<name or path> [jobs=1] [minutes=<no run "
    "begins after>] [store=benchmarks/results/<suite>] [runs=runs/bench] [keep=true|false] [list=true] "
    "[launcher=joblib|submitit_local|submitit_slurm [hydra.launcher.<key>=<value>]]"
)
_REPORT_HELP = (
    "tables, statistics and figures of results stores and run folders, named or below a folder: "
    "dof report <folder>... [output=report] "
    "[name=report] [title=...] [against=<method>] [target=0.95] [seed=0] [formats=markdown,latex,csv,html] "
    "[overwrite=true]"
)


def main() -> None:
    """Entry point of the `dof` command."""
    sys.exit(exit_with_one_line(lambda: run(sys.argv[1:])))


class _Parser(argparse.ArgumentParser):
    """Reports what it cannot parse in one line, with the nearest command."""

    def error(self, message: str) -> NoReturn:
        """Raises a `UserError` (argparse hook)."""
        if chosen := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            commands = re.findall(r"[\w-]+", chosen[2])
            raise UserError(f"{self.prog} has no command `{chosen[1]}`; {nearest(chosen[1], commands)}")
        if message.startswith("the following arguments are required"):
            raise UserError(
                f"{self.prog} needs a command; {_EXAMPLES.get(self.prog, '')}`{self.prog} --help` lists all"
            )
        raise UserError(f"{self.prog}: {message}; `{self.prog} --help` lists what can be typed")


_EXAMPLES = {
    "dof": "`dof eval checkpoint=<run_dir>` for example; ",
    "dof data": "`dof data list` for example; ",
}


def run(arguments: Sequence[str]) -> None:
    """Runs one command.

    Raises:
        UserError: an argument is missing or names nothing.
    """
    if arguments[:1] == ["train"]:  # its flags are Hydra's
        return _train(arguments[1:])
    parser = _Parser(prog="dof", description=__doc__)
    parser.add_argument("--version", action="version", version=f"dof-lightning {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="{train,eval,export,certify,igd,bench,report,data}"
    )
    commands.add_parser("train", help=_TRAIN_HELP)
    for name, (_, explanation) in COMMANDS.items():
        command = commands.add_parser(name, help=explanation, description=explanation)
        command.add_argument("tails", nargs="*", metavar="key=value", help="checkpoint=<path> and the keys to change")
    suite = commands.add_parser("bench", help=_BENCH_HELP, description=_BENCH_HELP)
    suite.add_argument("tails", nargs="*", metavar="key=value", help="suite=<name or path> and options")
    reporting = commands.add_parser("report", help=_REPORT_HELP, description=_REPORT_HELP)
    reporting.add_argument("arguments", nargs="*", metavar="folder or key=value", help="folders, and options")
    data = commands.add_parser("data", help=data_commands.HELP, description=data_commands.HELP)
    actions = data.add_subparsers(dest="action", required=True, metavar="{" + ",".join(data_commands.ACTIONS) + "}")
    for name, (_, explanation) in data_commands.ACTIONS.items():
        action = actions.add_parser(name, help=explanation, description=explanation)
        action.add_argument("tails", nargs="*", metavar="key=value", help="as for train.py, or a dataset's folder")
        if name == "stats":
            action.add_argument("--plot", action="store_const", const=["--plot"], default=[], help="draw a PNG too")
    options = parser.parse_args(without_config_dirs(arguments))
    if options.command in COMMANDS:
        COMMANDS[options.command][0](options.tails)
    elif options.command == "bench":
        from dof_lightning.bench.command import bench

        bench(options.tails)
    elif options.command == "report":
        from dof_lightning.report.command import report

        print("\n".join(map(str, report(options.arguments))))
    else:
        data_commands.ACTIONS[options.action][0]([*options.tails, *getattr(options, "plot", [])])


def _train(typed: Sequence[str]) -> None:
    """Runs `train.py` as if it had been typed, so that the processes that Lightning starts find it too."""
    program = str(CONF_DIR.parent / "train.py")
    sys.argv = [program, *typed]
    runpy.run_path(program, run_name="__main__")
