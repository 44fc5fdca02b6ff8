"""Files that know their own content: a digest is written into each, and what is read is held against it.

A bit that flips on a disk or on the way would be another weight, another score, another answer, without a word.
"""

import hashlib
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

KEY = "content_sha256"


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with its digest among it.

    Args:
        content: nested plain containers, numbers, texts and tensors.
    """
    plain = {key: value for key, value in content.items() if key != KEY}
    return plain | {KEY: digest(plain)}


def unsealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `sealed`; what an earlier version wrote without a digest is believed.

    Raises:
        ValueError: the content is not what was written.
    """
    plain = {key: value for key, value in content.items() if key != KEY}
    if KEY in content and content[KEY] != digest(plain):
        raise ValueError(f"its content is not what was written ({KEY})")
    return plain


def digest(content: Any) -> str:
    """Hex sha256 of keys in their order, of values with their types, and of tensors' bits.

    Args:
        content: nested mappings, lists and tuples; of what is neither of these nor plain nor a tensor, the type counts.
    """
    hashed = hashlib.sha256()
    _add(content, hashed.update)
    return hashed.hexdigest()


def _add(node: Any, update: Callable[[bytes], Any]) -> None:
    if isinstance(node, Tensor):
        bits = node.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        update(f"tensor {node.dtype} {list(node.shape)}\n".encode())
        update(bits.numpy().tobytes())
    elif isinstance(node, Mapping):
        update(f"mapping {len(node)}\n".encode())
        for key, value in node.items():
            _add(key, update)
            _add(value, update)
    elif isinstance(node, list | tuple):
        update(f"{'tuple' if isinstance(node, tuple) else 'list'} {len(node)}\n".encode())
        for value in node:
            _add(value, update)
    elif isinstance(node, str):
        text = node.encode(errors="surrogatepass")
        update(f"text {len(text)}\n".encode() + text)
    elif isinstance(node, float):
        update(b"float " + struct.pack("<d", node))
    elif isinstance(node, bool | int | None):
        update(f"{type(node).__name__} {node}\n".encode())
    else:
        update(f"other {type(node).__module__}.{type(node).__qualname__}\n".encode())


def load_tensors(path: Path, map_location: Any = "cpu") -> Any:
    """Reads what `torch.save` wrote, without running any of it, and holds it against its digests.

    `torch.load` looks at none of the checksums that the parts of its archive carry, so that they are looked at here:
    they are what files of earlier versions have.

    Args:
        path: of the file.
        map_location: as in `torch.load`.

    Returns:
        what was saved; where it is a dict, without its digest.

    Raises:
        ValueError: its parts or its content are not what was written.
        Exception: a damaged file fails in many other ways, inside zip, pickle and torch.
    """
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
