"""A stored configuration is held against its schema before anything is built from it."""

from typing import Any

import pytest

from dof_lightning.config import compose as configuration
from dof_lightning.config.stored import check_stored
from dof_lightning.errors import UserError


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    return configuration.to_plain(configuration.compose(["experiment=mpe_spread_random"]))


def test_what_we_write_is_whole(stored: dict[str, Any]) -> None:
    assert check_stored(stored)["algorithm"] == stored["algorithm"]


def test_an_algorithm_without_its_class_is_named(stored: dict[str, Any]) -> None:
    without = {name: value for name, value in stored["algorithm"].items() if name != "_target_"}
    with pytest.raises(UserError, match=r"algorithm\._target_ is missing"):
        configuration.build_algorithm(stored | {"algorithm": without}, spec=None)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"denoiser": -1}, r"algorithm\.denoiser must be a class or a function"),
        ({"noise_factorization": [["x"]]}, r"algorithm\.noise_factorization must be a class or a function"),
        ({"schedule": {"_partial_": []}}, r"cannot be built: .*_partial_ flag must be a bool"),
    ],
)
def test_a_part_that_is_nothing_to_call_is_named(stored: dict[str, Any], damage: dict[str, Any], words: str) -> None:
    key, value = next(iter(damage.items()))
    part = stored["algorithm"][key] | value if isinstance(value, dict) else value
    with pytest.raises(UserError, match=words):
        configuration.build_algorithm(stored | {"algorithm": stored["algorithm"] | {key: part}}, spec=None)


def test_a_choice_that_is_no_option_is_named(stored: dict[str, Any]) -> None:
    choices = stored["choices"] | {"env@data.source.environment": [["x"]]}
    with pytest.raises(ValueError, match=r"choices\.env@data\.source\.environment\[0\] must be text"):
        check_stored(stored | {"choices": choices})
