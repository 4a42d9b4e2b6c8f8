"""The merged network as a torch module, and the guaranteed error of it.

References: Cooke, Mo and Xiang, *Guaranteed quantization error computation for neural network model
compression*, arXiv 2304.13812, sec. III: the merged network and the propagation of its output set.
"""

# The stubs of torch leave several members partly unknown.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from milpq._arrays import Float64Array, Matrix
from milpq.bounds import differential, interval, symbolic
from milpq.errors import RegionError
from milpq.formats.torch_module import read_torch, read_torch_module
from milpq.merge import Problem, QuantizedNetwork, merge
from milpq.network.float_network import FloatNetwork
from milpq.network.integer_network import IntegerInput, IntegerNetwork
from milpq.network.nodes import Affine, Clamp, FloatNode, Smooth, Step, Term
from milpq.network.quantized_model import QuantizedModel
from milpq.region.box import Box
from milpq.rounding.targets import get_target

if TYPE_CHECKING:
    from milpq.merge import DomainKind

FloatLike: TypeAlias = "nn.Module | FloatNetwork"
QuantizedLike: TypeAlias = "nn.Module | FloatNetwork | IntegerNetwork | QuantizedModel"


class MergedNetwork(nn.Module):
    """Two networks over one input; calling it gives the largest difference of their outputs.

    Parameters
    ----------
    original : torch module or FloatNetwork
    quantized : torch module, FloatNetwork, IntegerNetwork or QuantizedModel
        A torch module stands for its weights in real arithmetic, unless it computes with quantized activations.
    target : str, optional
        Inference target that settles the rounding of a QuantizedModel.

    Attributes
    ----------
    float_network : FloatNetwork
    quantized_network : IntegerNetwork or FloatNetwork

    Raises
    ------
    NotAPairError
        The architectures differ; the layer is named.
    """

    float_network: FloatNetwork
    quantized_network: QuantizedNetwork

    def __init__(self, original: FloatLike, quantized: QuantizedLike, *, target: str | None = None) -> None:
        super().__init__()
        if isinstance(original, nn.Module):
            original = read_torch_module(original)
        if isinstance(quantized, nn.Module):
            quantized = read_torch(quantized)
        if isinstance(quantized, QuantizedModel):
            quantized = quantized.on_target(None if target is None else get_target(target))
        merge(original, quantized)
        self.float_network = original
        self.quantized_network = quantized
        self._float_side = _RealSide(original)
        self._quantized_side = (
            _IntegerSide(quantized) if isinstance(quantized, IntegerNetwork) else _RealSide(quantized)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the largest ``|f_q(x) − f(x)|`` of each sample, float64, shape (batch,).

        Parameters
        ----------
        x : floating point, shape (batch, inputs), real units

        Notes
        -----
        The integer side is executed exactly; the float side and the final subtraction use float64.  The
        gradient of a rounding step is that of the line through it (straight-through), zero where it
        saturates.
        """
        return self.difference(x).abs().amax(dim=1)

    def difference(self, x: Tensor) -> Tensor:
        """Return ``f_q(x) − f(x)``, float64, shape (batch, outputs)."""
        points = x.to(torch.float64)
        return self._quantized_side(points) - self._float_side(points)

    def problem(
        self, lower: npt.ArrayLike, upper: npt.ArrayLike, input_domain: DomainKind | None = None
    ) -> Problem:
        """Return the question about the box ``lower <= x <= upper``, shapes (inputs,)."""
        return Problem.create(
            self.float_network, self.quantized_network, Box(_array(lower), _array(upper)), input_domain
        )


def compute_guaranteed_error(
    merged: MergedNetwork,
    region: tuple[npt.ArrayLike, npt.ArrayLike],
    *,
    input_domain: DomainKind | None = None,
) -> float:
    """Return a certified upper bound on ``|f_q − f|`` over a box, by propagation through every layer.

    Parameters
    ----------
    merged : MergedNetwork
    region : pair of tensors or array-likes (lower, upper), shape (inputs,), real units
    input_domain : "continuous" or "codes", optional
        As for `milpq.bound`.

    Returns
    -------
    float
        Real units, rounded upwards.

    Raises
    ------
    RegionError
        The region is no box of the networks' inputs.

    *Soundness:* intervals, linear bounds and differential bounds, rounded outwards and intersected.
    """
    if len(region) != 2:
        raise RegionError(f"region: a pair (lower, upper) is needed, not {len(region)} values")
    problem = merged.problem(*region, input_domain=input_domain)
    root = problem.domain.root
    bounds = interval(problem, root)
    for method in (symbolic, differential):
        bounds = bounds.intersect(method(problem, root))
    ends = bounds.difference
    return float(np.maximum(np.abs(ends.lower), np.abs(ends.upper)).max())


def _array(values: npt.ArrayLike) -> Float64Array:
    if isinstance(values, Tensor):
        return cast("Float64Array", values.detach().to("cpu", torch.float64).numpy())
    return np.asarray(values, dtype=np.float64)


def _tensor(array: npt.NDArray[Any]) -> Tensor:
    return torch.tensor(array, dtype=torch.float64)


class _Linear(nn.Module):
    """One term ``matrix @ value``; a sparse matrix stays sparse."""

    matrix: Tensor

    def __init__(self, matrix: Matrix) -> None:
        super().__init__()
        if isinstance(matrix, np.ndarray):
            stored = _tensor(matrix)
        else:
            coo = matrix.tocoo()
            index = torch.tensor(np.stack([coo.coords[0], coo.coords[1]]), dtype=torch.int64)
            stored = torch.sparse_coo_tensor(index, _tensor(coo.data), coo.shape).coalesce()
        self.register_buffer("matrix", stored)

    def forward(self, value: Tensor) -> Tensor:
        """Apply to rows, (batch, inputs) to (batch, outputs)."""
        return torch.mm(self.matrix, value.T).T


class _Affine(nn.Module):
    """``Σ matrix @ value[source] + bias``; exact on integers below 2^53."""

    bias: Tensor

    def __init__(self, terms: tuple[Term, ...], bias: npt.NDArray[Any]) -> None:
        super().__init__()
        self.sources = tuple(term.source for term in terms)
        self.linears = nn.ModuleList([_Linear(term.matrix) for term in terms])
        self.register_buffer("bias", _tensor(bias))

    def forward(self, values: list[Tensor]) -> Tensor:
        """Read the values of the graph so far."""
        total = self.bias
        for source, linear in zip(self.sources, self.linears, strict=True):
            total = total + linear(values[source])
        return total


class _Clamp(nn.Module):
    def __init__(self, node: Clamp) -> None:
        super().__init__()
        self.node = node

    def forward(self, values: list[Tensor]) -> Tensor:
        """Read the values of the graph so far."""
        return values[self.node.source].clamp(self.node.lower, self.node.upper)


class _Smooth(nn.Module):
    def __init__(self, node: Smooth) -> None:
        super().__init__()
        self.source = node.source
        self.function = {"sigmoid": torch.sigmoid, "tanh": torch.tanh}[node.curve.name]

    def forward(self, values: list[Tensor]) -> Tensor:
        """Read the values of the graph so far."""
        return self.function(values[self.source])


class _Step(nn.Module):
    """A requantization: the step function forwards, the line through it backwards."""

    thresholds: Tensor
    levels: Tensor
    slope: Tensor

    def __init__(self, node: Step, scale_in: Float64Array) -> None:
        super().__init__()
        function = node.function
        self.source = node.source
        self.register_buffer("thresholds", _tensor(function.thresholds[function.rows]))
        self.register_buffer("levels", _tensor(function.values[function.rows]))
        self.register_buffer("slope", _tensor(scale_in / node.scale))

    def forward(self, values: list[Tensor]) -> Tensor:
        """Read the values of the graph so far."""
        accumulators = values[self.source]
        with torch.no_grad():
            index = torch.searchsorted(self.thresholds, accumulators.detach().T.contiguous(), right=True)
            exact = self.levels.gather(1, index).T
            inside = (exact > self.levels[:, 0]) & (exact < self.levels[:, -1])
        return _straight_through(exact, accumulators, self.slope * inside)


class _Quantize(nn.Module):
    """The input quantizer: levels of real inputs."""

    scale: Tensor

    def __init__(self, node: IntegerInput) -> None:
        super().__init__()
        self.node = node
        self.register_buffer("scale", _tensor(node.float_scale))

    def forward(self, x: Tensor) -> Tensor:
        """Return levels, shape (batch, inputs)."""
        node = self.node
        with torch.no_grad():
            points = _array(x)
            if node.quantizer is None:
                levels = np.clip(np.rint(points / node.float_scale), node.level_lower, node.level_upper)
            else:
                levels = node.quantizer(points)
            exact = _tensor(levels).to(x.device)
            inside = (exact > node.level_lower) & (exact < node.level_upper)
        return _straight_through(exact, x, inside / self.scale)


class _RealSide(nn.Module):
    def __init__(self, network: FloatNetwork) -> None:
        super().__init__()
        self.output = network.output
        self.nodes = nn.ModuleList([_real_module(node) for node in network.nodes])

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, shape (batch, outputs)."""
        values = [x]
        for node in self.nodes:
            values.append(node(values))
        return values[self.output]


def _real_module(node: FloatNode) -> nn.Module:
    if isinstance(node, Affine):
        return _Affine(node.terms, node.bias)
    return _Clamp(node) if isinstance(node, Clamp) else _Smooth(node)


class _IntegerSide(nn.Module):
    scale: Tensor

    def __init__(self, network: IntegerNetwork) -> None:
        super().__init__()
        self.output = network.output
        self.quantize = _Quantize(network.input)
        self.nodes = nn.ModuleList(
            [
                _Step(node, network.scale_of(node.source))
                if isinstance(node, Step)
                else _Affine(node.terms, node.bias)
                for node in network.nodes
            ]
        )
        self.register_buffer("scale", _tensor(network.output_scale))

    def forward(self, x: Tensor) -> Tensor:
        """Return the real outputs, shape (batch, outputs)."""
        values = [self.quantize(x)]
        for node in self.nodes:
            values.append(node(values))
        return values[self.output] * self.scale


def _straight_through(value: Tensor, source: Tensor, slope: Tensor) -> Tensor:
    """Return exactly `value`, with the gradient `slope` with respect to `source`."""
    return cast("Tensor", _StraightThrough.apply(value, source, slope))


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(value: Tensor, source: Tensor, slope: Tensor) -> Tensor:  # noqa: ARG004 - read by setup_context
        """Return `value`."""
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:  # noqa: ANN401, ARG004
        """Keep the slope."""
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:  # type: ignore[override]  # noqa: ANN401
        """Pass the gradient on along the line."""
        (slope,) = ctx.saved_tensors
        return None, gradient * slope, None
