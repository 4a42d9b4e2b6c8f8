"""The merged network over one cube as a mixed-integer linear model, exact on integers.

Columns of each merged value: the float side, the quantized side in its own integer units, and the difference.
Bounds make the model: a stable activation costs nothing, a decided step is a constant, and the rows that tie
differences use the ranges of the differences as their big-M (`milpq.milp.encode_pair`).

References: V. Tjeng, K. Xiao and R. Tedrake, *Evaluating robustness of neural networks with mixed integer
programming* (ReLU rows); the difference formulation and the integer lines are proved where they are made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from milpq._arrays import BoolArray, Float64Array, Int64Array, Matrix, frozen
from milpq.bounds.forward import residue_band
from milpq.bounds.planes import PlanePair
from milpq.bounds.prepared import prepared
from milpq.bounds.relaxation import activation_planes
from milpq.bounds.symbolic import never
from milpq.bounds.values import Bounds, ValueBounds
from milpq.errors import OutOfTimeError, UsageError
from milpq.merge.domain import Cubes
from milpq.merge.nodes import MergedActivation, MergedAffine
from milpq.merge.problem import Problem
from milpq.milp.encode_activation import encode_activation
from milpq.milp.encode_affine import encode_affine
from milpq.milp.encode_input import encode_input
from milpq.milp.faces import Faces, Part
from milpq.milp.model import LinearModel, ModelBuilder
from milpq.milp.staircase import Slopes
from milpq.network.nodes import absolute

_NARROW = 1e-9  # the feasibility tolerance of the solvers


@dataclass(frozen=True, slots=True, eq=False)
class Encoding:
    """A problem over one cube as a linear model.

    Parameters
    ----------
    problem : Problem
    cubes : Cubes
        Exactly one.
    model : LinearModel
        For bounds: true points satisfy it in exact arithmetic.
    solver_model : LinearModel
        For solvers: the same rows and columns, but rows whose two sides are a rounding error apart are
        equations.  (Solvers allow more than that anyway, and the presolve of HiGHS 1.15.1 can lose optimal
        points to such narrow rows.)
    faces : tuple of Faces
        The columns of every merged value, the input first.
    parts : tuple
        How every column follows from the input, in order.
    values : tuple of int
        The merged value each part belongs to.

    Notes
    -----
    *Soundness:* every input of the cube, run exactly through both networks, is a point of the model, so
    bounds on the model are bounds on the cube.  Conversely the levels of any point are those of an
    execution (up to inputs at the very border of a quantizer cell); see the modules of the parts for
    both.
    """

    problem: Problem
    cubes: Cubes
    model: LinearModel
    solver_model: LinearModel
    faces: tuple[Faces, ...]
    parts: tuple[Part, ...]
    values: tuple[int, ...]

    @property
    def inputs(self) -> Int64Array:
        """Columns of the real input of ``f``, shape (inputs,)."""
        return self.faces[0].float_side.columns

    @property
    def levels(self) -> Int64Array | None:
        """Columns of the input levels, shape (inputs,); None for a real quantized side."""
        return self.faces[0].quantized.columns if self.faces[0].unit is not None else None

    @property
    def differences(self) -> Int64Array:
        """Columns of the difference of each chosen output, shape (chosen,)."""
        side = self.faces[self.problem.merged.output].difference
        assert side is not None
        return side.columns[self.problem.outputs]

    @property
    def counts(self) -> BoolArray:
        """Tell which columns count integer units, levels and accumulators, shape (columns,)."""
        result = np.zeros(self.model.columns, dtype=np.bool_)
        for faces in self.faces:
            if faces.unit is not None:
                result[faces.quantized.columns] = True
        return result

    @property
    def integers(self) -> Int64Array:
        """All integer columns."""
        return np.flatnonzero(self.model.integer)

    def objective(self, position: int, sign: int) -> Float64Array:
        """Return ``sign · (f_q − f)`` of a chosen output, by its position in ``problem.outputs``."""
        return self.model.objective(int(self.differences[position]), float(sign))

    def point_to_input(self, point: Float64Array) -> Float64Array:
        """Return the input that a solution stands for, shape (inputs,): inside the cube, its levels whole.

        Behind a quantizer the input is moved into the cell of its level, where rounding had left it outside.
        """
        lower, upper = self.cubes.lower[0], self.cubes.upper[0]
        x = np.clip(point[self.inputs], lower, upper)
        integer, levels = self.problem.domain.integer, self.levels
        if integer is None or levels is None:
            return x
        # A solver's numbers may be beyond every integer.
        level = np.clip(np.rint(point[levels]), self.cubes.level_lower[0], self.cubes.level_upper[0])
        level = level.astype(np.int64)
        if self.problem.domain.kind == "codes":
            return integer.float_value(level)
        assert integer.quantizer is not None
        start, stop = integer.quantizer.cell(level)
        start, stop = np.nextafter(start, np.inf), np.nextafter(stop, -np.inf)
        inside = np.clip(x, np.minimum(start, stop), np.maximum(start, stop))
        return np.clip(inside, lower, upper)

    def start_from_input(self, x: Float64Array) -> Float64Array:
        """Run both networks at an input of the cube and return the point of the model it gives.

        Parameters
        ----------
        x : float64, shape (inputs,)
            On codes, a value that ``f`` reads for some level.
        """
        point = np.zeros(self.model.columns)
        point[self.inputs] = x
        if self.levels is not None:
            point[self.levels] = self.problem.quantized_levels(x[None])[0]
        for part in self.parts:
            part.fill(point)
        return point


class Encoder:
    """Encodes cubes of one problem; what does not depend on the cube is prepared once."""

    __slots__ = ("_need_input_difference", "_sizes", "_slopes", "problem")

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._sizes: dict[int, tuple[Matrix, ...]] = {}
        self._slopes: dict[int, Slopes] = {}
        merged = problem.merged
        for index, node in enumerate(merged.nodes):
            if isinstance(node, MergedAffine):
                terms = () if node.integer is None else node.integer.terms
                self._sizes[index] = tuple(absolute(term.matrix) for term in terms)
        self._need_input_difference = merged.output == 0 or any(
            isinstance(node, MergedActivation) and node.source == 0 for node in merged.nodes
        )

    def encode(
        self, cubes: Cubes, bounds: Bounds, *, cuts: bool = False, stop: Callable[[], bool] = never
    ) -> Encoding:
        """Encode one cube.

        Parameters
        ----------
        cubes : Cubes
            Exactly one.
        bounds : Bounds
            Valid on it; one cube.
        cuts : bool
            Add the cuts of the linear relaxation: on for bounds by linear programs, off for mixed-integer
            solves, which they slow down.
        stop : callable
            Asked before every layer.

        Raises
        ------
        SoundnessError
            Two bounds do not meet.
        OutOfTimeError
            `stop` has said True.
        """
        if len(cubes) != 1:
            raise UsageError(f"a model is made of one cube, not of {len(cubes)}")
        builder, parts = ModelBuilder(), list[Part]()
        faces = [
            encode_input(
                builder,
                parts,
                self.problem.domain,
                cubes,
                bounds.values[0],
                need_difference=self._need_input_difference,
            )
        ]
        values = [0] * len(parts)
        for index, node in enumerate(self.problem.merged.nodes):
            if stop():
                raise OutOfTimeError(f"time is up before layer {node.name!r} is encoded")
            builder.value = index + 1
            value = bounds.values[index + 1]
            if isinstance(node, MergedAffine):
                sources = [faces[source] for source in node.sources]
                faces.append(encode_affine(builder, parts, node, self._sizes[index], sources, value))
            else:
                planes = partial(self._planes, index, node)
                source, before = faces[node.source], bounds.values[node.source]
                slopes = self._slopes_of(index, node)
                faces.append(
                    encode_activation(builder, parts, node, slopes, source, value, before, planes, cuts=cuts)
                )
            values.extend([index + 1] * (len(parts) - len(values)))
        model = builder.build()
        return Encoding(
            self.problem, cubes, model, _with_equations(model), tuple(faces), tuple(parts), tuple(values)
        )

    def _slopes_of(self, index: int, node: MergedActivation) -> Slopes | None:
        """Return the slopes of a step, which take long and are made when they are first needed."""
        if node.step is not None and index not in self._slopes:
            self._slopes[index] = Slopes.of(node.step)
        return self._slopes.get(index)

    def _planes(self, index: int, node: MergedActivation, source: ValueBounds) -> PlanePair:
        """Return planes of the difference of an activation, in the float side and the difference of its source."""
        band = residue_band(node, prepared(self.problem.merged).residues[index], source)
        return activation_planes(node, band, source, carry_difference=True)[1]


def _with_equations(model: LinearModel) -> LinearModel:
    """Return the model with narrow rows made equations in their middle."""
    width = model.row_upper - model.row_lower
    narrow = (width > 0.0) & (width < _NARROW)
    middle = 0.5 * (model.row_lower[narrow] + model.row_upper[narrow])
    lower, upper = model.row_lower.copy(), model.row_upper.copy()
    lower[narrow] = upper[narrow] = middle
    return replace(model, row_lower=frozen(lower), row_upper=frozen(upper))


def encode(problem: Problem, cubes: Cubes, bounds: Bounds, *, cuts: bool = False) -> Encoding:
    """Encode one cube of a problem; `Encoder` is faster for many."""
    return Encoder(problem).encode(cubes, bounds, cuts=cuts)
