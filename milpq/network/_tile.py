"""Products of a few rows of weights with a block of points, every vector register of the processor in use.

What numpy's matrix products reach with layers of 50 neurons is a third of what the processor can do.  Compiled loops
do not keep the sums of a tile in registers either, so its instructions are written out here, in the vectors that the
processor has.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final, TypeAlias, cast

import llvmlite.binding as llvm  # pyright: ignore[reportMissingTypeStubs]
from llvmlite import ir  # pyright: ignore[reportMissingTypeStubs]
from numba.core import types  # pyright: ignore[reportMissingTypeStubs]
from numba.extending import intrinsic  # pyright: ignore[reportMissingTypeStubs]

Ir: TypeAlias = Any
"""What llvmlite and numba hand around: they have no types of their own."""

_WIDE: Final = bool(cast("dict[str, bool]", llvm.get_host_cpu_features()).get("avx512f", False))

ROW_BYTES: Final = 128 if _WIDE else 64
"""Bytes of one neuron's values at a block of points: two vectors of the processor."""

TALLEST: Final = 8 if _WIDE else 6
"""Most rows of a tile: their sums, at two vectors each, and what is added to them fit into the registers."""

_VECTORS: Final = 2


def _tile(height: int) -> Ir:
    """Return the product of a tile of so many rows, for compiled code to call."""

    @intrinsic
    def multiply(
        _: Ir,
        values: Ir,
        rows: Ir,
        columns: Ir,
        weights: Ir,
        row: Ir,
        column: Ir,
        shift: Ir,
        weight: Ir,
        count: Ir,
    ) -> Ir:
        """Set rows of values to the sums of a tile.

        ``values[rows[row + r] + p] = weights[weight + r] + Σ_k weights[weight + (k + 1)·height + r] ·
        values[shift + columns[column + k] + p]`` for each row ``r`` and point ``p``.
        """
        whole = [types.int64 for _ in (row, column, shift, weight, count)]
        signature = types.void(values, rows, columns, weights, *whole)
        return signature, partial(_emit, height)

    return multiply


def _emit(height: int, context: Ir, builder: Ir, signature: Ir, given: Ir) -> Ir:
    values, rows, columns, weights = (
        context.make_array(kind)(context, builder, value).data
        for kind, value in zip(signature.args[:4], given[:4], strict=True)
    )
    row, column, shift, weight, count = given[4:]
    element = context.get_data_type(signature.args[0].dtype)
    lanes = ROW_BYTES // _VECTORS // (4 if isinstance(element, ir.FloatType) else 8)
    vector, whole = ir.VectorType(element, lanes), ir.IntType(64)
    everywhere = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    nothing = ir.Constant(vector, cast("Any", ir).Undefined)

    def number(value: int) -> Ir:
        return ir.Constant(whole, value)

    def at(base: Ir, index: Ir) -> Ir:
        return builder.gep(base, [index], inbounds=True)

    def spread(index: Ir) -> Ir:
        one = builder.insert_element(
            nothing,
            builder.load(at(weights, index)),
            ir.Constant(ir.IntType(32), 0),
        )
        return builder.shuffle_vector(one, nothing, everywhere)

    def vectors(start: Ir) -> list[Ir]:
        places = (at(values, builder.add(start, number(v * lanes))) for v in range(_VECTORS))
        return [builder.bitcast(place, vector.as_pointer()) for place in places]

    biases = [spread(builder.add(weight, number(r))) for r in range(height)]
    before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
    builder.cbranch(builder.icmp_signed(">", count, number(0)), loop, after)

    builder.position_at_end(loop)
    k = builder.phi(whole)
    k.add_incoming(number(0), before)
    sums = [[builder.phi(vector) for _ in range(_VECTORS)] for _ in range(height)]
    source = builder.sext(builder.load(at(columns, builder.add(column, k))), whole)
    factors = [
        builder.load(place, align=_element_bytes(element)) for place in vectors(builder.add(shift, source))
    ]
    following = builder.add(k, number(1))
    first = builder.add(weight, builder.mul(following, number(height)))
    grown: list[list[Ir]] = []
    for r in range(height):
        one = spread(builder.add(first, number(r)))
        # Fused where the processor can: a rounding less.
        products = [builder.fmul(one, factor, flags=("contract",)) for factor in factors]
        grown.append(
            [
                builder.fadd(total, product, flags=("contract",))
                for total, product in zip(sums[r], products, strict=True)
            ]
        )
    k.add_incoming(following, loop)
    for r in range(height):
        for v in range(_VECTORS):
            sums[r][v].add_incoming(biases[r], before)
            sums[r][v].add_incoming(grown[r][v], loop)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, after)

    builder.position_at_end(after)
    finished: list[list[Ir]] = []
    for r in range(height):
        finished.append([])
        for v in range(_VECTORS):
            total = builder.phi(vector)
            total.add_incoming(biases[r], before)
            total.add_incoming(grown[r][v], loop)
            finished[r].append(total)
    for r in range(height):
        target = builder.load(at(rows, builder.add(row, number(r))))
        for total, place in zip(finished[r], vectors(target), strict=True):
            builder.store(total, place, align=_element_bytes(element))
    return context.get_dummy_value()


def _element_bytes(element: Ir) -> int:
    """Return the size of a floating-point type."""
    return 4 if isinstance(element, ir.FloatType) else 8


tile1, tile2, tile3, tile4, tile5, tile6, tile7, tile8 = (_tile(height) for height in range(1, 9))
