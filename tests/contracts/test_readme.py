"""The README's commands are what they are said to be."""

import re
import shlex

import pytest

from dof_lightning import configuration

ROOT = configuration.CONF_DIR.parent
README = (ROOT / "README.md").read_text()
BASH_BLOCKS = re.findall(r"^```bash\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
TRAINING_COMMANDS = sorted({line.partition("  #")[0].strip() for line in re.findall(r"python train\.py .*", README)})


def test_there_are_two_blocks_to_run_the_main_job_and_the_tests() -> None:
    assert len(BASH_BLOCKS) == 2
    main_job, tests = BASH_BLOCKS
    assert "python train.py experiment=mpe_spread_expert" in main_job
    assert "python -m tests" in tests
    for block in BASH_BLOCKS:
        assert "pip install -c constraints.txt -e " in block
        assert (ROOT / "constraints.txt").is_file()


@pytest.mark.parametrize("command", TRAINING_COMMANDS)
def test_training_commands_compose(command: str) -> None:
    overrides = shlex.split(command.partition("`")[0])[2:]
    configuration.check(configuration.compose(overrides))


def test_constraints_pin_every_dependency_exactly_and_name_no_place() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines)
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    wanted = re.findall(r'^    "([A-Za-z0-9-]+)[><=!]', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert {name.lower() for name in wanted} <= pinned
    assert "torch==2.13.0" in lines
