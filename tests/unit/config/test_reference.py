"""The page of all options and keys is what `conf/` says."""

import re

from dof_lightning.config import catalog, reference


def test_the_page_is_current() -> None:
    written = reference.PAGE.read_text(encoding="utf-8")
    assert written == reference.render(), "run `python -m dof_lightning.config.reference`"


def test_every_group_and_option_with_a_file_is_on_the_page() -> None:
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", reference.render(), flags=re.MULTILINE | re.DOTALL))
    assert {*catalog.groups(), "suite"} <= {*sections}
    for group, section in sections.items():
        rows = re.findall(r"^\| `(\w+)` \| (.*?) \|$", section, flags=re.MULTILINE)
        files = {path.stem for path in (catalog.CONF_DIR / group).glob("[!_]*.yaml")}
        assert files <= {option for option, _ in rows}
        assert all(meaning for _, meaning in rows), group


def test_keys_have_their_value_and_comment() -> None:
    page = reference.render()
    assert "| `algorithm.q_weight` | `0.5` | eta, weight of L_q | `dof_policy` |" in page
    assert re.search(
        r"^\| `algorithm\.ema_decay` \| `0\.995` \| decay of the averaged denoisers.* `dof_policy`", page, re.MULTILINE
    )
    assert "| `smax_<map>` |" in page
