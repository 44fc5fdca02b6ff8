"""Any changed bit is found, and files from before there were digests are read."""

import random
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from dof_lightning.digest import KEY, digest, load_tensors, sealed, unsealed


def content() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "state_dict": OrderedDict(
            weight=torch.randn(6, 8, generator=generator),
            half=torch.randn(3, generator=generator).to(torch.bfloat16),
            steps=torch.tensor(7),
            empty=torch.zeros(0, 4),
            turned=torch.randn(4, 3, generator=generator).T,
        ),
        "global_step": 7,
        "best": {"score": float("nan"), "value": -float("inf"), "passed": True, "what": None},
        "betas": (0.9, 0.999),
        0: ["ö\u2028", b"raw"],
    }


def same(ours: Any, theirs: Any) -> bool:
    """Whether values are equal bit for bit, NaN being equal to itself."""
    if isinstance(ours, torch.Tensor):
        alike = isinstance(theirs, torch.Tensor) and ours.dtype == theirs.dtype
        return alike and ours.shape == theirs.shape and digest(ours) == digest(theirs)
    if isinstance(ours, dict):
        return isinstance(theirs, dict) and list(ours) == list(theirs) and all(same(ours[k], theirs[k]) for k in ours)
    if isinstance(ours, list | tuple):
        return type(ours) is type(theirs) and len(ours) == len(theirs) and all(map(same, ours, theirs))
    return type(ours) is type(theirs) and repr(ours) == repr(theirs)


@pytest.mark.parametrize("write", [sealed, dict], ids=["sealed", "earlier version"])
def test_what_was_written_is_read(tmp_path: Path, write: Any) -> None:
    torch.save(write(content()), tmp_path / "file")
    read = load_tensors(tmp_path / "file")
    assert KEY not in read
    assert same(read, content())


def test_no_flipped_bit_is_read_in_silence(tmp_path: Path) -> None:
    """torch.load alone gives other numbers for about a quarter of them."""
    path, draw, silent = tmp_path / "file", random.Random(0), 0
    torch.save(sealed(content()), path)
    whole = path.read_bytes()
    directory = whole.index(b"PK\x01\x02")  # where a flip may point a part's name at other bytes
    places = [draw.randrange(len(whole)) for _ in range(300)]
    places += [draw.randrange(directory, len(whole)) for _ in range(300)]
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        try:
            assert same(load_tensors(path), content()), f"byte {place}"
        except AssertionError:
            raise
        except Exception:
            continue
        silent += 1
    assert silent > 0, "padding between the parts may change"


@pytest.mark.parametrize("length", [0, 10, 500, -1])
def test_no_truncated_file_is_read(tmp_path: Path, length: int) -> None:
    torch.save(sealed(content()), tmp_path / "file")
    whole = (tmp_path / "file").read_bytes()
    (tmp_path / "file").write_bytes(whole[:length])
    with pytest.raises(Exception, match=r"."):
        load_tensors(tmp_path / "file")


def test_a_part_without_a_digest_of_the_whole_is_checked_too(tmp_path: Path) -> None:
    torch.save({"weight": torch.arange(64.0)}, tmp_path / "file")
    whole = bytearray((tmp_path / "file").read_bytes())
    whole[whole.index(torch.arange(64.0).numpy().tobytes()) + 9] ^= 4
    (tmp_path / "file").write_bytes(whole)
    with pytest.raises(ValueError, match="data/0 is damaged"):
        load_tensors(tmp_path / "file")


@pytest.mark.parametrize(
    "changed",
    [
        {"step": 1.0},
        {"step": True},
        {"step": "1"},
        {"steps": 1},
        {"step": 1, "more": None},
        {"step": [1]},
        {"step": torch.tensor(1)},
    ],
)
def test_another_value_kind_or_name_is_other_content(changed: dict[str, Any]) -> None:
    before = sealed({"step": 1})
    assert unsealed(before) == {"step": 1}
    with pytest.raises(ValueError, match="not what was written"):
        unsealed(changed | {KEY: before[KEY]})


def test_tensors_differ_by_kind_shape_and_each_bit() -> None:
    ones = torch.ones(4)
    others = [ones.double(), ones.int(), ones.view(2, 2), torch.nextafter(ones, ones + 1), -ones, ones[:3]]
    assert len({digest(tensor) for tensor in [ones, *others]}) == 7
    assert digest(torch.eye(3)[:, 1]) == digest(torch.eye(3)[:, 1].clone()), "however it lies in memory"
