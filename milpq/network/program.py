"""A network as a program for compiled execution: its rows in tiles, its steps by neuron, memory that is used again.

A matrix, dense or sparse, is a set of *tiles*: rows that read the same columns.  Those of a dense layer all do, those
of a convolution do wherever they lie at one position.  Tiles with equal weights share them, as do tiles that read the
same pattern from different places, so an image's positions cost no memory of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from milpq._arrays import Float64Array, Int64Array, Matrix
from milpq.network._levels_kernel import read
from milpq.network._program_kernel import AFFINE, CLAMP, DOUBLE, SEARCH, SINGLE, STEP, TABLE, Arrays, execute
from milpq.network._tile import ROW_BYTES, TALLEST
from milpq.network.float_network import FloatNetwork
from milpq.network.integer_network import IntegerNetwork
from milpq.network.nodes import Affine, Clamp, IntegerAffine, Smooth, Step, Term
from milpq.rounding.input_quantizer import InputQuantizer

_CACHE_LINE: Final = 64


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A network laid out for `run`; made by `program_of`.

    Parameters
    ----------
    arrays : what `milpq.network._program_kernel.execute` reads
    size : int
        Neurons that working memory holds at once.
    output, outputs : int
        Where in working memory the output begins, and how many neurons it has.
    """

    arrays: Arrays
    precision: type[np.float32 | np.float64]
    size: int
    inputs: int
    output: int
    outputs: int

    def run(self, points: Float64Array) -> Float64Array:
        """Return the outputs at some points in rows, shape (points, outputs).

        *Soundness:* an integer network's are exact: every sum is one of integers below 2^24 in single precision and
        below 2^53 in double precision, in whatever order and fused or not, and steps are evaluated as
        ``StepFunction.evaluate_fast`` does, in double precision.  A float network's are within γ of each sum, as
        those of ``FloatNetwork.evaluate`` are: γ holds for any order, and fusing rounds less.
        """
        lanes = ROW_BYTES // np.dtype(self.precision).itemsize
        spare = np.zeros(self.size * lanes + _CACHE_LINE, dtype=self.precision)
        skipped = (-spare.ctypes.data % _CACHE_LINE) // spare.itemsize
        results = np.empty((len(points), self.outputs))
        points = np.require(points, np.float64, ["C", "W"])  # read-only arrays would be compiled for again
        execute(self.arrays, spare[skipped:], lanes, self.output * lanes, points, results)
        return results


def program_of(network: FloatNetwork | IntegerNetwork) -> Program | None:
    """Return the program of a network, made when it is first asked for, or None of one with curves."""
    return network.kept.get(lambda: _program_of(network))


def program_after(network: IntegerNetwork, value: int) -> Program:
    """Return the program of the nodes after a value that is all they read of what comes before them.

    Parameters
    ----------
    value : int
        See ``IntegerNetwork.is_cut``; the program reads levels that execution can give it.
    """
    program = _program_of(network, value)
    assert program is not None
    return program


def evaluate_fast(network: FloatNetwork, points: Float64Array) -> Float64Array:
    """Return what ``network.evaluate`` does, within the same bound on its error."""
    program = program_of(network)
    return network.evaluate(points) if program is None else program.run(points)


def execute_fast(network: IntegerNetwork, levels: Int64Array) -> Float64Array:
    """Return what ``network.execute`` does: output levels, exactly."""
    program = program_of(network)
    assert program is not None
    network.check_levels(levels)
    return program.run(levels.astype(np.float64))


def levels_fast(quantizer: InputQuantizer, points: Float64Array) -> Int64Array:
    """Return the levels of real inputs, shape (points, inputs), exactly as ``quantizer(points)`` does.

    Raises
    ------
    RegionError
        An input is NaN or beyond the quantizer's reach.
    """
    tables, rows = quantizer.tables
    reach = np.full(len(rows), np.inf) if quantizer.reach is None else quantizer.reach.copy()
    levels = np.empty(points.shape, dtype=np.int64)
    points = np.require(points, np.float64, ["C", "W"])
    if not read(points, tables, rows.copy(), reach, quantizer.level_lower, levels):
        quantizer.check_reach(points)
    return levels


def _program_of(network: FloatNetwork | IntegerNetwork, start: int = 0) -> Program | None:
    if any(isinstance(node, Smooth) for node in network.nodes):
        return None
    single = isinstance(network, IntegerNetwork) and network.exact_in_float32
    precision = np.float32 if single else np.float64
    places, size = _memory(network, start)
    book = _Book(precision, ROW_BYTES // np.dtype(precision).itemsize)
    for index, node in enumerate(network.nodes[start:], start):
        target = places[index + 1]
        if isinstance(node, Affine | IntegerAffine):
            book.add_affine(node.terms, node.bias.astype(np.float64), places, target)
        elif isinstance(node, Clamp):
            book.add_clamp(node, places[node.source], target, network.graph.sizes[index + 1])
        else:
            assert isinstance(node, Step)
            book.add_step(node, places[node.source], target)
    inputs, outputs = network.graph.sizes[start], network.graph.sizes[network.output]
    return Program(book.arrays(), precision, size, inputs, places[network.output], outputs)


def _memory(network: FloatNetwork | IntegerNetwork, start: int) -> tuple[list[int], int]:
    """Return where each value from `start` on begins, and how many neurons there is room for.

    Memory of values that are no longer read is used again.  What works neuron by neuron overwrites its source where
    nothing reads that later.
    """
    sizes, last_use = network.graph.sizes, network.graph.last_use
    places, taken, room = [0] * (start + 1), {start: sizes[start]}, sizes[start]
    owner = list(range(start + 1))  # the value whose memory a value lies in
    for index, node in enumerate(network.nodes[start:], start):
        source = node.sources[0]
        if not isinstance(node, Affine | IntegerAffine) and last_use[source] == index:
            places.append(places[source])
            owner.append(owner[source])
            continue
        place = 0
        for begin, length in sorted((places[value], taken[value]) for value in taken):
            if begin - place >= sizes[index + 1]:
                break
            place = max(place, begin + length)
        places.append(place)
        owner.append(index + 1)
        taken[index + 1] = sizes[index + 1]
        room = max(room, place + sizes[index + 1])
        needed = {owner[value] for value in range(index + 2) if last_use[value] > index}
        taken = {value: taken[value] for value in taken if value in needed or value == index + 1}
    return places, room


class _Book:
    """Collects the arrays of a program."""

    def __init__(self, precision: type[np.float32 | np.float64], lanes: int) -> None:
        self._precision, self._lanes = precision, lanes
        self._operations: list[tuple[int, int, int, int, int]] = []
        self._tiles: list[tuple[int, int, int, int, int, int]] = []
        self._rows = _Pool(np.int64)
        self._columns = _Pool(np.int32)
        self._weights = _Pool(precision)
        self._clamps: list[tuple[float, float]] = []
        self._stairs: list[Float64Array] = []
        self._searches: list[Int64Array] = []
        self._numbers = _Pool(np.int64)
        self._neurons = 0

    def add_affine(self, terms: Sequence[Term], bias: Float64Array, places: list[int], target: int) -> None:
        """Add the sums of an affine node."""
        first = len(self._tiles)
        for rows, columns, weights in _same_columns(terms, places):
            shift = int(columns[0]) * self._lanes if len(columns) else 0
            at = self._columns.add((columns * self._lanes - shift).astype(np.int32))
            parts = -(-len(rows) // TALLEST)
            for part in np.array_split(np.arange(len(rows)), parts):
                some = rows[part]
                block = np.concatenate([bias[some][:, None], weights[part]], axis=1).T
                self._tiles.append(
                    (
                        len(some),
                        self._rows.append((some + target) * self._lanes),
                        at,
                        shift,
                        self._weights.add(np.ascontiguousarray(block, dtype=self._precision).ravel()),
                        len(columns),
                    )
                )
        self._operations.append((AFFINE, first, len(self._tiles), 0, 0))

    def add_clamp(self, node: Clamp, source: int, target: int, size: int) -> None:
        """Add a clamp of every neuron of a value."""
        lanes = self._lanes
        self._operations.append((CLAMP, source * lanes, target * lanes, size, len(self._clamps)))
        self._clamps.append((node.lower, node.upper))

    def add_step(self, node: Step, source: int, target: int) -> None:
        """Add the steps of a value."""
        lanes, function = self._lanes, node.function
        self._operations.append((STEP, source * lanes, target * lanes, function.size, self._neurons))
        stairs, exact = function.staircases(np.float64)
        searches = np.zeros((function.size, 3), dtype=np.int64)
        searches[:, 0] = DOUBLE
        if self._precision is np.float32:
            single, also = function.staircases(np.float32)
            stairs, searches[also, 0] = np.where(also[:, None], single, stairs), SINGLE
            exact = exact | also
        searched = np.flatnonzero(~exact)
        if len(searched):
            distinct, which = np.unique(function.rows[searched], return_inverse=True)
            starts = [
                self._numbers.add(np.concatenate([function.thresholds[row], function.values[row]]))
                for row in distinct
            ]
            searches[searched, 0] = TABLE if function.is_table else SEARCH
            searches[searched, 1] = np.array(starts, dtype=np.int64)[which]
            searches[searched, 2] = function.thresholds.shape[1]
        self._stairs.append(stairs)
        self._searches.append(searches)
        self._neurons += function.size

    def arrays(self) -> Arrays:
        """Return what the kernel reads, in its order."""
        return (
            np.array(self._operations, dtype=np.int64).reshape(-1, 5),
            np.array(self._tiles, dtype=np.int64).reshape(-1, 6),
            self._rows.array(),
            self._columns.array(),
            self._weights.array(),
            np.array(self._clamps, dtype=np.float64).reshape(-1, 2),
            np.concatenate([np.zeros((0, 5)), *self._stairs]),
            np.concatenate([np.zeros((0, 3), dtype=np.int64), *self._searches]),
            self._numbers.array(),
        )


class _Pool:
    """One array of many, each of different ones stored once."""

    def __init__(self, dtype: type[np.generic]) -> None:
        self._dtype, self._parts, self._known, self._size = dtype, [np.zeros(0, dtype)], dict[bytes, int](), 0

    def add(self, part: npt.NDArray[Any]) -> int:
        """Return where an array begins, which is added unless it is there."""
        key = part.tobytes()
        if key not in self._known:
            self._known[key] = self.append(part)
        return self._known[key]

    def append(self, part: npt.NDArray[Any]) -> int:
        """Add an array, and return where it begins."""
        start = self._size
        self._parts.append(part.astype(self._dtype))
        self._size += len(part)
        return start

    def array(self) -> npt.NDArray[Any]:
        """Return all of them."""
        return np.concatenate(self._parts)


def _same_columns(
    terms: Sequence[Term], places: list[int]
) -> Iterator[tuple[Int64Array, Int64Array, Float64Array]]:
    """Yield the rows of a sum of products that read the same neurons of working memory.

    Yields
    ------
    rows, columns, weights of shape (rows, columns)
    """
    matrices: list[Matrix] = [term.matrix for term in terms]
    if len(matrices) == 1 and isinstance(matrices[0], np.ndarray):
        used = np.flatnonzero(matrices[0].any(axis=0))
        yield np.arange(len(matrices[0])), used + places[terms[0].source], matrices[0][:, used]
        return
    size = [matrix.shape[1] for matrix in matrices]
    column = np.concatenate([np.arange(n) + places[term.source] for n, term in zip(size, terms, strict=True)])
    joined = sp.csr_array(sp.hstack([sp.csr_array(matrix) for matrix in matrices], format="csr"))
    groups: dict[bytes, list[int]] = {}
    ends, indices = joined.indptr.tolist(), joined.indices
    for row in range(joined.shape[0]):
        groups.setdefault(indices[ends[row] : ends[row + 1]].tobytes(), []).append(row)
    for rows in groups.values():
        start, count = ends[rows[0]], ends[rows[0] + 1] - ends[rows[0]]
        weights = np.stack([joined.data[ends[row] : ends[row] + count] for row in rows])
        yield np.array(rows, dtype=np.int64), column[indices[start : start + count]], weights
