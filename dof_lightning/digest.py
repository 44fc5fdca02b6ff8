"""Files that know their own content: a seal is written into each, and what is read is held against it.

A bit that flips on a disk or on the way would be another weight, another score, another answer, without a word.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KEY = "seal"  # of everything else in the file; version 0.1.0 wrote none


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with its seal among it.

    Args:
        content: nested plain containers, numbers, texts and tensors.
    """
    plain = {key: value for key, value in content.items() if key != KEY}
    return plain | {KEY: digest(plain)}


def unsealed(content: Mapping[str, Any], owed: bool = False) -> dict[str, Any]:
    """Inverse of `sealed`.

    Args:
        content: what was read.
        owed: the file says of itself that it was sealed; another one without a seal is believed.

    Raises:
        ValueError: the content is not what was written, or the seal that is owed is not there.
    """
    plain = {key: value for key, value in content.items() if key != KEY}
    if KEY in content and content[KEY] != digest(plain):
        raise ValueError(f"its content is not what was written (another {KEY})")
    if owed and KEY not in content:
        raise ValueError(f"{KEY} is missing")
    return plain


def digest(content: Any) -> str:
    """Hex sha256 of keys in any order, of values with their types, and of tensors' bits; a tuple counts as a list.

    Args:
        content: nested mappings, lists and tuples; of what is neither of these nor plain nor a tensor, the type counts.
    """
    return hashlib.sha256(json.dumps(_plain(content), sort_keys=True).encode()).hexdigest()


def _plain(node: Any) -> Any:
    if isinstance(node, Mapping):
        named = ((key if isinstance(key, str) else f"{type(key).__name__} {key}", node[key]) for key in node)
        return {name: _plain(value) for name, value in named}
    if isinstance(node, list | tuple):
        return [_plain(value) for value in node]
    if isinstance(node, str | int | float | None):
        return node
    import torch  # here: whoever reads JSON alone does not need it

    if not isinstance(node, torch.Tensor):
        return {"other": f"{type(node).__module__}.{type(node).__qualname__}"}
    bits = node.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return {"tensor": [str(node.dtype), list(node.shape), hashlib.sha256(bits.numpy().data).hexdigest()]}


def load_tensors(path: Path, map_location: Any = "cpu") -> Any:
    """Reads what `torch.save` wrote, without running any of it, and holds it against its seal.

    `torch.load` looks at none of the checksums that the parts of its archive carry, so that they are looked at here:
    they are what files of earlier versions have.

    Args:
        path: of the file.
        map_location: as in `torch.load`.

    Returns:
        what was saved; if it is a dict, without its seal.

    Raises:
        ValueError: its parts or its content are not what was written.
        Exception: a damaged file fails in many other ways, inside zip, pickle and torch.
    """
    import torch

    _check_parts(path)
    content = torch.load(path, map_location=map_location, weights_only=True)
    return unsealed(content) if isinstance(content, dict) else content


def _check_parts(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for part in archive.infolist():
            # torch stores plain files: what is packed could expand without end, and of a folder it reads rubbish.
            if part.compress_type != zipfile.ZIP_STORED or part.external_attr:
                raise ValueError(f"its part {part.filename} is not stored as torch stores it")
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"its part {damaged} is damaged")
