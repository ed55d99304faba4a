"""What was learnt, as files: dataclasses that hold arrays, whole or not at all."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

T = TypeVar("T")
log = logging.getLogger(__name__)


def store(path: Path, content: bytes) -> None:
    """Write a file anew; whoever reads it meanwhile gets the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f"{path.name}.{os.getpid()}.half")
    half.write_bytes(content)
    half.replace(path)


def load(path: Path, kind: type[T]) -> T | None:
    """What `packed` gave for an object of this type; None where there is none, or none of today's form."""
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=kind, dec_hook=_unpack)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, ValueError, TypeError) as problem:
        log.warning("%s is of another version or damaged, and is made anew: %s", path, problem)
        return None


def packed(content: Any) -> bytes:
    """A dataclass as bytes: plain values and arrays."""
    return msgspec.msgpack.encode(content, enc_hook=_pack)


def _pack(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"A {type(value).__name__} cannot be stored.")


def _unpack(_kind: Any, plain: Any) -> Any:
    dtype, shape, content = plain
    return np.frombuffer(content, dtype).reshape(shape).copy()
