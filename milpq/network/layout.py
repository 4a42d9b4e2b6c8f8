"""Image networks in NCHW and in NHWC order: giving one the order of the other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from milpq._arrays import Int64Array, Matrix
from milpq.errors import NotAPairError
from milpq.network.float_network import FloatNetwork
from milpq.network.geometry import Layout
from milpq.network.images import LAYOUT_NAMES, Image
from milpq.network.nodes import Affine, FloatNode, Term
from milpq.network.quantized_model import QuantizedModel


def match_layouts(f: FloatNetwork, q: FloatNetwork | QuantizedModel) -> FloatNetwork:
    """Return `f` with its images, and with them its input, in the layout of those of `q`.

    `q` stays as it is, so regions and witnesses are in its order.  Networks of one layout, or of none, stay too.

    Raises
    ------
    NotAPairError
        The layouts differ, and the inputs cannot be matched.

    *Soundness:* permutes neurons only.  Which inputs belong together is what both files say of their shapes; that the
    weights behind them do is for `check_pair`.
    """
    ours, theirs = _layouts(f.images), _layouts(q.images)
    if not ours or not theirs or ours == theirs:
        return f
    pair = f"{f.origin} and {q.origin}"
    if len(ours) > 1 or len(theirs) > 1:
        raise NotAPairError(
            f"{pair}: one of them has images of both layouts, NCHW and NHWC; export both in one"
        )
    (old,), (new,) = ours, theirs
    first, second = f.images[0], q.images[0]
    if first is not None and first.has_layout:
        if second is None:
            raise NotAPairError(
                f"{pair}: the first reads {_spell(first)}, and of what the second reads its file does not say which "
                "axis is which; remove the transposition or reshaping of its input"
            )
        if (first.channels, first.spatial) != (second.channels, second.spatial):
            raise NotAPairError(f"{pair}: the first reads {_spell(first)}, the second {_spell(second)}")
    relaid = _relaid(f, new)
    note = f"{LAYOUT_NAMES[old]} images, here in the {LAYOUT_NAMES[new]} order of {q.origin}, as region and witness"
    return replace(relaid, note="; ".join(filter(None, (f.note, note))))


def _layouts(images: tuple[Image | None, ...]) -> set[Layout]:
    return {image.layout for image in images if image is not None and image.has_layout}


def _spell(image: Image) -> str:
    extents = "×".join(str(extent) for extent in image.spatial)
    return f"an {LAYOUT_NAMES[image.layout]} image of {image.channels} channels, {extents}"


def _relaid(f: FloatNetwork, layout: Layout) -> FloatNetwork:
    """Return a network that computes the same with its images in this layout; transpositions in between vanish."""
    images = [None if image is None else replace(image, layout=layout) for image in f.images]
    orders = [order_of(image, layout) for image in f.images]
    value_of, nodes = [0], list[FloatNode]()
    kept = [images[0]]
    for index, node in enumerate(f.nodes):
        if isinstance(node, Affine):
            order = orders[index + 1]
            terms = tuple(
                Term(value_of[term.source], permuted(term.matrix, order, orders[term.source]))
                for term in node.terms
            )
            bias = node.bias if order is None else node.bias[order]
            convolution = None if node.convolution is None else node.convolution.in_layout(layout)
            made: FloatNode = replace(node, terms=terms, bias=bias, convolution=convolution)
            if _is_identity(made) and not _is_identity(node):
                value_of.append(terms[0].source)
                continue
        else:
            orders[index + 1] = orders[node.source]
            made = replace(node, source=value_of[node.source])
        nodes.append(made)
        kept.append(images[index + 1])
        value_of.append(len(nodes))
    return replace(f, nodes=tuple(nodes), output=value_of[f.output], images=tuple(kept))


def order_of(image: Image | None, layout: Layout) -> Int64Array | None:
    """Return which neuron each neuron of a value is once its image lies in `layout`; None where all stay."""
    if image is None or image.layout == layout or not image.has_layout:
        return None
    return image.order(layout)


def permuted(matrix: Matrix, rows: Int64Array | None, columns: Int64Array | None) -> Matrix:
    """Return a matrix with rows and columns in another order; None leaves them."""
    if rows is not None:
        matrix = matrix[rows]
    if columns is not None:
        matrix = matrix[:, columns]
    if isinstance(matrix, np.ndarray):
        return np.ascontiguousarray(matrix)
    matrix = sp.csr_array(matrix)
    matrix.sort_indices()
    return matrix


def _is_identity(node: FloatNode) -> bool:
    """Tell whether a node that holds no weights gives what it reads."""
    if not isinstance(node, Affine) or node.weighted or len(node.terms) != 1 or node.bias.any():
        return False
    matrix = node.terms[0].matrix
    if isinstance(matrix, np.ndarray) or matrix.shape[0] != matrix.shape[1]:
        return False
    places = np.arange(matrix.shape[0])
    return bool(
        matrix.nnz == len(places) and np.array_equal(matrix.indices, places) and (matrix.data == 1.0).all()
    ) and bool((np.diff(matrix.indptr) == 1).all())
