"""A study's cells by their labels, and how their agents acted."""

from collections.abc import Iterator, Sequence

from dof_lightning.studies.base import Cell


def by_labels(cells: Sequence[Cell]) -> Iterator[tuple[dict[str, str], list[Cell]]]:
    """Cells that differ in the seed only, together."""
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(tuple(cell.labels.values()), []).append(cell)
    for group in groups.values():
        yield group[0].labels, group


def execution(cells: Sequence[Cell]) -> str:
    """How a group's agents acted, as a table must say it: alone, as one, told something, or not as they should."""
    last = cells[0].results["last"]
    if last.get("execution") == "centralized":
        return "centralized"
    passed = all(cell.results["last"]["certificate"]["passed"] for cell in cells)
    said = ["decentralized" if passed else "NOT CERTIFIED"]
    said += [f"shared seed of {last['shared_seeds']}"] if last.get("shared_seeds") else []
    said += ["told rewards"] if last["certificate"].get("observes_rewards") else []
    return ", ".join(said)
