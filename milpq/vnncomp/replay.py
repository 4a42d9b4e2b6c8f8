"""A proposed input, replayed: exactly in rational arithmetic, and in float32 on the graph of the file itself."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from milpq._arrays import Float64Array
from milpq.errors import ModelFileError
from milpq.formats.vnnlib_query import Variable, holds
from milpq.network.float_network import FloatNetwork
from milpq.vnncomp.question import Question

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Counterexample:
    """An input for which everything asserted holds, in exact arithmetic and in float32.

    Parameters
    ----------
    point : tuple of Fraction
        With finite decimals, so that it can be written exactly.
    first, second : tuple of float
        The float32 outputs of both networks.
    """

    point: tuple[Fraction, ...]
    first: tuple[float, ...]
    second: tuple[float, ...]


class Replay:
    """Replays inputs of one question through its two networks.

    Parameters
    ----------
    question : Question
    networks : the two networks as milpq reads them
    files : the two ONNX files
    """

    def __init__(
        self, question: Question, networks: tuple[FloatNetwork, FloatNetwork], files: tuple[Path, Path]
    ) -> None:
        self._question = question
        self._networks = networks
        self._graphs = [_Graph(path) for path in files]

    def __call__(self, point: Float64Array) -> Counterexample | None:
        """Return the counterexample next to a point, shape (inputs,), or None if it is none.

        The point is moved to float32 numbers, and where these leave the box, to its exact ends.
        """
        question = self._question
        exact = tuple(
            min(max(Fraction(float(np.float32(x))), low), high)
            for x, low, high in zip(point, question.lower, question.upper, strict=True)
        )
        rational = [network.evaluate_exact(exact) for network in self._networks]
        if not self._holds(exact, rational[0], rational[1]):
            return None
        narrow = np.array([float(x) for x in exact]).astype(np.float32)
        single = [graph(narrow) for graph in self._graphs]
        if not all(np.isfinite(values).all() for values in single):
            return None
        as_fractions = [[Fraction(float(y)) for y in values] for values in single]
        if not self._holds(exact, as_fractions[0], as_fractions[1]):
            return None
        return Counterexample(exact, *(tuple(float(y) for y in values) for values in single))

    def _holds(self, point: tuple[Fraction, ...], first: list[Fraction], second: list[Fraction]) -> bool:
        question = self._question
        values = {
            question.first.input.name: point,
            question.first.output.name: first,
            question.second.output.name: second,
        }

        def value(variable: Variable) -> Fraction:
            return values[variable[0]][variable[1]]

        return holds(question.condition, value)


class _Graph:
    """The ONNX file executed operator by operator in its own float32, by the reference implementation of ONNX."""

    def __init__(self, path: Path) -> None:
        # onnx is slow to import, and only needed for a counterexample.
        from onnx import ModelProto  # noqa: PLC0415
        from onnx.reference import ReferenceEvaluator  # noqa: PLC0415

        self._path = path
        self._model = ModelProto.FromString(path.read_bytes())
        evaluator: Any = ReferenceEvaluator(self._model)
        self._run: Callable[[None, dict[str, object]], list[object]] = evaluator.run

    def __call__(self, point: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        graph = self._model.graph
        constants = {tensor.name for tensor in graph.initializer}
        entry = next(value for value in graph.input if value.name not in constants)
        shape = [max(1, dimension.dim_value) for dimension in entry.type.tensor_type.shape.dim]
        if math.prod(shape) != len(point):
            raise ModelFileError(
                f"{self._path}: input {entry.name!r} of shape {shape} is not {len(point)} numbers"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (result, *_) = self._run(None, {entry.name: point.reshape(shape)})
        return np.asarray(result, dtype=np.float32).ravel()
