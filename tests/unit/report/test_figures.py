"""Figures of a report: every method has its look in all of them, and can be seen on every page."""

from pathlib import Path

import numpy as np
import pytest

from dof_lightning.report.aggregates import aggregates, comparisons
from dof_lightning.report.figures import Panel, method_styles, pictures, summary
from dof_lightning.report.gathering import Group, gather
from dof_lightning.report.published import OURS
from dof_lightning.report.store import ResultsStore
from dof_lightning.report.summary import standings
from tests.fixtures.report_stores import SPREAD, fill
from tests.fixtures.store_rows import point, record


def panels_of(groups: list[Group]) -> list[Panel]:
    found = pictures(groups, comparisons(groups, None, seed=0), method_styles(groups))
    return [panel for picture in found for panel in picture.panels]


def test_no_two_methods_look_alike_in_a_figure(tmp_path: Path) -> None:
    groups = gather([fill(tmp_path, tuple(f"method_{place}" for place in range(13)))])
    drawn = [
        [line for line in panel.figure.axes[0].lines if str(line.get_label()).startswith("method")]
        for panel in panels_of(groups)
    ]
    assert sum(map(bool, drawn)) == 3, "a profile, and curves on two datasets"
    for lines in drawn:
        assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(lines)


def test_methods_on_one_dataset_have_no_colour_in_common_while_there_are_enough(tmp_path: Path) -> None:
    easy, hard = (tuple(f"{name}_{place}" for place in range(5)) for name in ("easy", "hard"))
    fill(tmp_path / "easy", ("bc", *easy))
    told = {"dataset": "mpe_spread_random", "dataset_fingerprint": "random", "environment_fingerprint": SPREAD}
    for method in ("bc", *hard):
        ResultsStore(tmp_path / "hard").append(record(algorithm=method, config_hash=method, **told), [])
    styles = method_styles(gather([tmp_path / "easy", tmp_path / "hard"]))
    for together in (easy, hard):
        assert len({styles[method]["color"] for method in ("bc", *OURS, *together)}) == 8
    assert len({(styles[method]["color"], styles[method]["linestyle"]) for method in ("bc", *easy, *hard)}) == 11


def test_dof_has_its_colour_in_every_report_and_is_drawn_on_top_and_thicker(tmp_path: Path) -> None:
    alone, among = (
        gather([fill(tmp_path / str(len(others)), ("bc", "dof_policy", *others))]) for others in ((), ("a", "omar"))
    )
    assert method_styles(alone)["dof_policy"] == method_styles(among)["dof_policy"]
    curves = panels_of(among)[-1].figure.axes[0]
    ours, *others = sorted(
        (line for line in curves.lines if "(3)" in str(line.get_label())), key=lambda line: -line.get_zorder()
    )
    assert ours.get_label() == "dof_policy (3)"
    assert all(
        ours.get_zorder() > other.get_zorder() and ours.get_linewidth() > other.get_linewidth() for other in others
    )


def test_a_curve_goes_on_after_a_seed_at_its_plateau_and_ends_with_a_seed_that_time_ended(tmp_path: Path) -> None:
    for name, until in (("plateau", "rollout.until_plateau=20"), ("time", "trainer.max_time=00:00:01:00")):
        command = f"python train.py experiment=mpe_spread_medium {until}"
        for seed, last in enumerate((40, 20)):
            told = {"config_hash": f"{name}{seed}", "algorithm": name, "command": command}
            curve = [point(step, config_hash=f"{name}{seed}") for step in range(10, last + 1, 10)]
            row = record(seed=seed, settings_hash=name, steps=last, budget_steps=40, **told)
            ResultsStore(tmp_path).append(row, curve)
    (axes,) = panels_of(gather([tmp_path]))[-1].figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    np.testing.assert_array_equal(lines["plateau (2)"].get_xdata(), [10, 20, 30, 40])
    rises = np.diff(np.asarray(lines["plateau (2)"].get_ydata()))
    np.testing.assert_allclose(rises / rises[0], [1, 0.5, 0.5])  # one of two seeds stays where it ended
    np.testing.assert_array_equal(lines["time (2)"].get_xdata(), [10, 20])


def luminance(color: str) -> float:
    """Relative luminance of `#rrggbb` (WCAG 2.1)."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot((0.2126, 0.7152, 0.0722), linear))


@pytest.mark.parametrize("ground", ["#ffffff", "#15181c"])
def test_every_colour_can_be_seen_on_a_white_and_on_a_dark_page(tmp_path: Path, ground: str) -> None:
    groups = gather([fill(tmp_path, (*OURS, *(f"method_{place}" for place in range(10))), seeds=1)])
    for color in {style["color"] for style in method_styles(groups).values()}:
        dark, light = sorted((luminance(color), luminance(ground)))
        assert (light + 0.05) / (dark + 0.05) >= 3, color  # what WCAG asks of graphics


def test_long_names_leave_room_for_their_intervals(tmp_path: Path) -> None:
    own = "algorithm.q_weight={} algorithm.critic_learning_rate=0.0003 algorithm.value_learning=conservative"
    for weight in (3, 100):
        told = {"config_hash": str(weight), "settings_hash": str(weight)}
        ResultsStore(tmp_path).append(record(command=f"python train.py {own.format(weight)}", **told), [])
    groups = gather([tmp_path])
    (panel,) = summary(tuple(standings(groups, None, seed=0)), method_styles(groups)).panels
    panel.svg()  # places everything
    axes = panel.figure.axes[0]
    assert max(len(line) for label in axes.get_yticklabels() for line in label.get_text().splitlines()) < 60
    assert axes.get_position().width > 0.25


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    one, several = (gather([fill(tmp_path / str(seeds), seeds=seeds)]) for seeds in (1, 2))
    tables = list(aggregates(comparisons(one, against=None, seed=0)))
    assert len(tables) == 2
    for table in tables:
        assert {row[table.columns.index("95 % interval")] for row in table.rows} == {"- (one seed)"}
    for groups, intervals in ((one, 0), (several, 2)):
        means = panels_of(groups)[0]
        assert len(means.figure.axes[0].patches) == intervals
