"""The growth of an update's time and memory with the number of agents."""

import json
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.subjects import Update, made_up_batch, made_up_spec, make_dof_policy
from benchmarks.table import Row, ratio
from callbacks.throughput import peak_memory_mb
from dof_lightning.evaluation.timing import interleaved

AGENTS = (4, 16, 64)
BATCH_SIZE = 256


def scaling(agents: tuple[int, ...] = AGENTS, batch_size: int = BATCH_SIZE, repetitions: int = 7) -> list[Row]:
    """Measures time in this process, and memory in a fresh one, for each N."""
    updates = {str(n): _make_update(n, batch_size) for n in agents}
    seconds = interleaved(updates, repetitions)
    memory = {n: _measure_memory(n, batch_size) for n in agents}
    rows = []
    for n in agents[1:]:
        first, factor = agents[0], n / agents[0]
        what, against = f"preset: N={n}, B={batch_size}", f"N={first}"
        time_aim, memory_aim = (f"<= {factor:g}", f"<= {factor / 2:g}") if n == agents[-1] else ("", "")
        growth = ratio(seconds[str(n)], seconds[str(first)])
        rows.append(Row("scaling", f"time, {what}", against, growth, time_aim, f"{factor:g} times the agents"))
        total, own = memory[n][1], memory[n][1] - memory[n][0]
        total_first, own_first = memory[first][1], memory[first][1] - memory[first][0]
        rows.append(Row("scaling", f"peak memory, {what}", against, total / total_first, memory_aim, "whole process"))
        remark = "above what imports take"
        rows.append(Row("scaling", f"peak memory, {what}", against, own / own_first, memory_aim, remark))
    return rows


def _make_update(n_agents: int, batch_size: int) -> Update:
    spec = made_up_spec(n_agents)
    return Update(make_dof_policy(spec), made_up_batch(spec, batch_size))


def _measure_memory(n_agents: int, batch_size: int) -> tuple[float, float]:
    """MiB after a first tiny update, which loads all libraries, and after real ones."""
    command = [sys.executable, "-m", "benchmarks.scaling", str(n_agents), str(batch_size), str(torch.get_num_threads())]
    root = Path(__file__).resolve().parents[1]
    output = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    before, after = json.loads(output.splitlines()[-1])
    return before, after


def own_peak_mb() -> float:
    """Peak memory in MiB of this program: Linux's `ru_maxrss` would start from the parent process's peak."""
    status = Path("/proc/self/status")
    if not status.exists():
        return peak_memory_mb(torch.device("cpu"))
    line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**10


def main(n_agents: int, batch_size: int, threads: int) -> None:
    """Measures in the fresh process, and prints the result."""
    torch.set_num_threads(threads)
    _make_update(1, 1)()
    before = own_peak_mb()
    update = _make_update(n_agents, batch_size)
    for _ in range(3):
        update()
    sys.stdout.write(json.dumps([before, own_peak_mb()]) + "\n")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
