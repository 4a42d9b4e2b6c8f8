"""The certificate file: safetensors, read lazily and believed in nothing.

Metadata (strings): ``format``, ``problem`` (SHA-256 of the question), ``target`` (empty: the model settles its
rounding), ``domain``, ``float_side`` (``file`` or ``dequantized``), ``digest`` (SHA-256 of all else, against damage).

Tensors:

``region.lower``, ``region.upper``
    float64 (inputs,): the region, real units.
``outputs``
    int64 (chosen,): indices of the outputs asked about.
``upper``
    float64 (2·chosen,): the claim, upper bounds on ``f_q − f`` and then on ``f − f_q`` of these outputs, real units.
``tree.objective``
    int32 (trees,): what each tree proves: one bound of the claim, by its number, or all of them (−1).
``tree.node``
    int32 (nodes,): the trees in preorder, one after the other; an input to split along or, numbered after them, a
    quantity of the networks (``milpq.certificate.zonotope``); ``BOUND``, ``EXECUTED``, ``DUAL`` or ``REWRITTEN`` for a
    leaf.
``tree.cut``
    float64 (splits,): where each split cuts: the last level of the lower part, or a number where there is only one.
``dual.count``, ``dual.quantity``, ``dual.weight``
    int32, int32, float64: for each leaf of kind ``DUAL`` in turn, how many multipliers it has; and these, as numbers of
    quantities and weights (``milpq.certificate.slopes``).
``plane.weight``
    float32: for each leaf of kind ``REWRITTEN`` in turn, planes of all quantities (``milpq.certificate.rewriting``).
``steps``
    int64: the rounding of each merged node as the target does it, thresholds and then values of one after the other
    (``milpq.rounding.step.StepFunction``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from safetensors import SafetensorError, safe_open

from milpq.errors import CertificateError
from milpq.formats._files import PathLike

FORMAT: Final = "milpq-certificate/4"
BOUND: Final = -1
"""A leaf that the checker bounds with its zonotope."""
EXECUTED: Final = -2
"""A leaf whose codes the checker executes, all of them."""
DUAL: Final = -3
"""A leaf of one objective that multipliers bound."""
REWRITTEN: Final = -4
"""A leaf that planes bound."""

FIELDS: Final = ("format", "problem", "target", "domain", "float_side")
_TENSORS: Final = {
    "dual.count": "I32",
    "dual.quantity": "I32",
    "dual.weight": "F64",
    "outputs": "I64",
    "plane.weight": "F32",
    "region.lower": "F64",
    "region.upper": "F64",
    "steps": "I64",
    "tree.cut": "F64",
    "tree.node": "I32",
    "tree.objective": "I32",
    "upper": "F64",
}
_BLOCK: Final = 1 << 16


class CertificateFile:
    """A certificate file, open for reading; a context manager.

    Parameters
    ----------
    path : path
        Named in every error.

    Raises
    ------
    CertificateError
        The file cannot be read, is not a certificate, or is damaged.
    """

    def __init__(self, path: PathLike) -> None:
        self._path = path
        try:
            if not Path(path).is_file():
                raise CertificateError(f"{path}: no such file; check the path")
            self._file: Any = safe_open(str(path), framework="numpy")
            self._names: list[str] = sorted(self._file.keys())
        except (OSError, ValueError, SafetensorError) as reason:
            if isinstance(reason, CertificateError):
                raise
            raise self.error(
                f"is not a readable safetensors file ({' '.join(str(reason).split())[:200]})"
            ) from None
        self.metadata: dict[str, str] = self._file.metadata() or {}

    def __enter__(self) -> Self:
        """Check the frame: version, fields, names, types, digest."""
        self._file.__enter__()
        if self.metadata.get("format") != FORMAT:
            raise self.error(
                f"is not a certificate of format {FORMAT}, but {self.metadata.get('format')!r:.80}"
            )
        if set(self.metadata) != {*FIELDS, "digest"}:
            raise self.error(f"its metadata should be {', '.join(FIELDS)} and digest")
        if self._names != sorted(_TENSORS):
            raise self.error(f"its tensors should be {', '.join(_TENSORS)}")
        for name, expected in _TENSORS.items():
            shape, dtype = self._shape(name), self._file.get_slice(name).get_dtype()
            if dtype != expected or len(shape) != 1:
                raise self.error(f"tensor {name!r} is {dtype} of shape {shape}")
        content = {name: self.blocks(name) for name in self._names}
        if digest(self.metadata, content) != self.metadata["digest"]:
            raise self.error("its content does not match its digest: it was damaged or altered")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self._file.__exit__(kind, error, trace)

    def error(self, message: str, kind: type[CertificateError] = CertificateError) -> CertificateError:
        """Return an error that names the file."""
        return kind(f"{self._path}: {message}")

    def array(self, name: str, most: int) -> np.ndarray[Any, Any]:
        """Return a whole tensor, if it has at most so many numbers, and all are finite."""
        if self._shape(name)[0] > most:
            raise self.error(f"tensor {name!r} has {self._shape(name)[0]} numbers, more than {most}")
        array = self._file.get_tensor(name)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise self.error(f"tensor {name!r} holds NaN or infinity")
        return array

    def numbers(self, name: str) -> Iterator[Any]:
        """Return the numbers of a tensor one by one; it is never read whole."""
        for block in self.blocks(name):
            yield from block.tolist()

    def blocks(self, name: str) -> Iterator[np.ndarray[Any, Any]]:
        """Return a tensor piece by piece."""
        piece: Any = self._file.get_slice(name)
        length = self._shape(name)[0]
        for start in range(0, length, _BLOCK):
            yield piece[start : min(start + _BLOCK, length)]

    def _shape(self, name: str) -> list[int]:
        return list(self._file.get_slice(name).get_shape())


def digest(metadata: Mapping[str, str], tensors: Mapping[str, Iterator[np.ndarray[Any, Any]]]) -> str:
    """Return the SHA-256 of a certificate's content, the digest itself apart."""
    result = hashlib.sha256()
    for field in FIELDS:
        result.update(f"{field}={metadata[field]!r}\n".encode())
    for name in sorted(tensors):
        result.update(f"{name}\n".encode())  # types are fixed, and shapes follow from lengths and the problem
        for block in tensors[name]:
            result.update(np.ascontiguousarray(block).tobytes())
    return result.hexdigest()
