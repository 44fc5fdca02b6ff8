"""`python -m tests`: lint, formatting, types, import directions, then every test, one process per core (at most four).

Stops at the first command that fails.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy",),
    ("lint-imports",),
    # Files stay together, as what is expensive is shared within them, and in their order: xdist's own would leave files
    # of few and long tests for the end, when one process works alone.
    (
        *(sys.executable, "-m", "pytest", "-n", str(min(4, os.cpu_count() or 1)), "--dist", "loadfile"),
        *("--no-loadscope-reorder", *sys.argv[1:]),
    ),
)


def main() -> int:
    tools = str(Path(sys.executable).parent)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PATH": os.pathsep.join((tools, os.environ.get("PATH", "")))}
    for command in COMMANDS:
        sys.stdout.write(f"$ {' '.join(command)}\n")
        sys.stdout.flush()
        if code := subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
