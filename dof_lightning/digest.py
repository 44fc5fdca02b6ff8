"""Files with a seal: a digest of the content is written into each file and verified when it is read.

Otherwise, a bit that flips on a disk or in transit would change a weight, a score or an answer without notice.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KEY = "seal"  # key of the digest of everything else in the file; version 0.1.0 wrote none


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the seal to the content.

    Args:
        content: nested plain containers, numbers, texts and tensors.
    """
    plain = {key: value for key, value in content.items() if key != KEY}
    return plain | {KEY: digest(plain)}


def unsealed(content: Mapping[str, Any], owed: bool = False) -> dict[str, Any]:
    """Verifies the seal and removes it; inverse of `sealed`.

    Args:
        content: the content that was read.
        owed: whether the file declares that it was sealed; other files are accepted without a seal.

    Raises:
        ValueError: the content is not what was written, or a declared seal is missing.
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
        content: nested mappings, lists and tuples; of anything that is neither plain nor a tensor, the type counts.
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
    import torch  # imported here, because reading JSON does not need it

    if not isinstance(node, torch.Tensor):
        return {"other": f"{type(node).__module__}.{type(node).__qualname__}"}
    bits = node.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return {"tensor": [str(node.dtype), list(node.shape), hashlib.sha256(bits.numpy().data).hexdigest()]}


def load_tensors(path: Path, map_location: Any = "cpu") -> Any:
    """Reads a file of `torch.save` without running any code in it, and verifies its seal.

    `torch.load` ignores the checksums of its archive's parts, so they are verified here: files of earlier versions have
    nothing else.

    Args:
        path: the file's path.
        map_location: as in `torch.load`.

    Returns:
        the saved object; if it is a dict, without its seal.

    Raises:
        ValueError: the file's parts or its content are not what was written.
        Exception: a damaged file can fail in many other ways, inside zip, pickle and torch.
    """
    import torch

    _check_parts(path)
    content = torch.load(path, map_location=map_location, weights_only=True)
    return unsealed(content) if isinstance(content, dict) else content


def _check_parts(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for part in archive.infolist():
            # torch stores plain files: compressed ones could expand without end, and from a folder it reads garbage.
            if part.compress_type != zipfile.ZIP_STORED or part.external_attr:
                raise ValueError(f"its part {part.filename} is not stored as torch stores it")
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"its part {damaged} is damaged")
