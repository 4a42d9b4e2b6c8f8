"""Tensors that a QDQ graph quantizes twice in a row, as ONNX Runtime rewrites them before it fuses anything.

References
----------
ONNX Runtime, ``core/optimizer/double_qdq_pairs_remover.cc``.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx

_Constants = dict[str, npt.NDArray[Any]]


def merge_double_pairs(
    nodes: list[onnx.NodeProto], constants: _Constants, output: str
) -> tuple[list[onnx.NodeProto], _Constants]:
    """Return nodes and constants without the inner two of each chain of two QuantizeLinear, DequantizeLinear pairs.

    What is left of both grids is one, of the reals that both of them cover; the codes of one type are spread over them
    anew.  Where a tensor between them is used elsewhere, or the types differ, both quantizations are computed.

    Parameters
    ----------
    nodes : in topological order
    output : name of the result of the graph
    """
    nodes, constants = list(nodes), dict(constants)
    uses = Counter(name for node in nodes for name in node.input)
    uses[output] += 1
    at = 0
    while at < len(nodes):
        found = _chain(nodes, at, constants, uses)
        if found is None:
            at += 1
            continue
        first, last = found[0], found[3]
        pair = [_grid(nodes[index], constants) for index in (first, last)]
        assert pair[0] is not None and pair[1] is not None
        scale, zero_point = _common(*pair[0], *pair[1])
        names = [f"{nodes[first].output[0]}/common {what}" for what in ("scale", "zero point")]
        constants |= {names[0]: np.array(scale, np.float32), names[1]: np.array(zero_point, pair[0][1].dtype)}
        source = nodes[first].output[0]
        for index, read in ((first, nodes[first].input[0]), (last, source)):
            changed = type(nodes[index])()
            changed.CopyFrom(nodes[index])
            del changed.input[:]
            changed.input.extend([read, *names])
            nodes[index] = changed
        for index in sorted(found[1:3], reverse=True):
            del nodes[index]
        at = max(first - 1, 0)
    return nodes, constants


def _chain(
    nodes: list[onnx.NodeProto], at: int, constants: _Constants, uses: Counter[str]
) -> tuple[int, int, int, int] | None:
    """Return the four nodes of a chain that begins at a QuantizeLinear, if the runtime merges it."""
    kinds = ("QuantizeLinear", "DequantizeLinear", "QuantizeLinear", "DequantizeLinear")
    chain = [at]
    if nodes[at].op_type != kinds[0]:
        return None
    for kind in kinds[1:]:
        made = nodes[chain[-1]].output[0]
        after = next((k for k in range(chain[-1] + 1, len(nodes)) if made in nodes[k].input), None)
        if uses[made] != 1 or after is None or nodes[after].op_type != kind:
            return None
        chain.append(after)
    grids = [_grid(nodes[index], constants) for index in chain]
    if any(grid is None for grid in grids) or grids[0] != grids[1] or grids[2] != grids[3]:
        return None
    assert grids[0] is not None and grids[2] is not None
    if grids[0][1].dtype != grids[2][1].dtype or grids[0][1].dtype not in {
        np.dtype("int8"),
        np.dtype("uint8"),
    }:
        return None
    return chain[0], chain[1], chain[2], chain[3]


def _grid(node: onnx.NodeProto, constants: _Constants) -> tuple[Any, Any] | None:
    """Return scale and zero point of a node, if both are given as one constant each."""
    given = [constants.get(name) for name in node.input[1:3]]
    if len(given) < 2 or any(array is None or array.size != 1 for array in given):
        return None
    scale, zero_point = (array.ravel()[0] for array in given if array is not None)
    if scale.dtype != np.float32 or zero_point.dtype.kind not in "iu":
        return None
    return scale, zero_point


def _common(scale: Any, zero_point: Any, other_scale: Any, other_zero_point: Any) -> tuple[np.float32, int]:
    """Return the grid of the reals that both grids cover, in the runtime's float32."""
    if zero_point == other_zero_point and abs(float(scale - other_scale)) < 1e-20:
        return scale, int(zero_point)
    limits = np.iinfo(zero_point.dtype)
    ends = [
        [np.float32(end - int(zero)) * step for end in (limits.min, limits.max)]
        for step, zero in ((scale, zero_point), (other_scale, other_zero_point))
    ]
    low, high = max(ends[0][0], ends[1][0]), min(ends[0][1], ends[1][1])
    step = np.float32((high - low) / np.float32(limits.max - limits.min))
    place = float(np.float32(np.float32(limits.min) - np.float32(low / step)))
    return step, int(np.trunc(place + np.copysign(0.5, place)))
