"""One question: two networks, an input domain, and the outputs asked about."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

from milpq._arrays import Float64Array, Int64Array, Matrix, gamma
from milpq.errors import UsageError
from milpq.merge.align import QuantizedNetwork, merge
from milpq.merge.domain import Domain, DomainKind
from milpq.merge.nodes import Merged
from milpq.network.float_network import FloatNetwork
from milpq.network.inexact import DynamicQuantization, Float32Error
from milpq.network.integer_network import IntegerNetwork
from milpq.network.nodes import Clamp, IntegerAffine, Smooth, Step
from milpq.region.box import Box


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """The largest difference ``|f_q(x) − f(x)|`` over a domain, as a question.

    Parameters
    ----------
    float_network : FloatNetwork
    quantized : IntegerNetwork, or a FloatNetwork with changed weights
    domain : Domain
    outputs : int64, shape (chosen,)
        Indices of the outputs asked about.
    """

    float_network: FloatNetwork
    quantized: QuantizedNetwork
    domain: Domain
    outputs: Int64Array
    merged: Merged = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "merged", merge(self.float_network, self.quantized))
        self.domain.box.check_size(self.merged.input_size)
        wrong = [int(j) for j in self.outputs if not 0 <= j < self.merged.output_size]
        if wrong or not len(self.outputs):
            raise UsageError(
                f"output {wrong[0] if wrong else 'list'} does not exist: the networks have outputs 0 to "
                f"{self.merged.output_size - 1}"
            )

    @classmethod
    def create(
        cls,
        float_network: FloatNetwork,
        quantized: QuantizedNetwork,
        region: Box,
        input_domain: DomainKind | None = None,
        outputs: list[int] | None = None,
    ) -> Problem:
        """Pose a problem; the domain defaults to ``continuous`` where the quantized side has a quantizer."""
        if isinstance(quantized, IntegerNetwork):
            kind: DomainKind = input_domain or (
                "codes" if quantized.input.quantizer is None else "continuous"
            )
            domain = Domain(region, kind, quantized.input)
        else:
            domain = Domain(region, "real", None)
        chosen = range(quantized.output_size) if outputs is None else sorted(set(outputs))
        return cls(float_network, quantized, domain, np.array(chosen, dtype=np.int64))

    def quantized_levels(self, points: Float64Array) -> Int64Array:
        """Return the input levels that real inputs give, shape (points, inputs)."""
        integer = self.domain.integer
        assert integer is not None
        if self.domain.kind == "codes":
            return np.rint(points / integer.float_scale).astype(np.int64)
        assert integer.quantizer is not None
        return integer.quantizer(points)

    def run_quantized(self, points: Float64Array) -> Float64Array:
        """Return the real outputs of the quantized side at real inputs, shape (points, outputs).

        Bit-exact for an integer network up to the final product ``scale · level`` in float64.
        """
        if isinstance(self.quantized, IntegerNetwork):
            return self.quantized.execute(self.quantized_levels(points)) * self.quantized.output_scale
        return self.quantized.evaluate(points)

    def differences(self, points: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Run both networks and return ``(f_q − f)`` and a bound on its float64 error.

        Parameters
        ----------
        points : float64, shape (points, inputs)

        Returns
        -------
        difference, error : float64, shape (points, chosen outputs)
            The exact difference lies within ``difference ± error``.
        """
        value, error = self.float_network.evaluate_with_error(points)
        if isinstance(self.quantized, IntegerNetwork):
            other = self.run_quantized(points)
            other_error = gamma(2) * np.abs(other)
        else:
            other, other_error = self.quantized.evaluate_with_error(points)
        difference = other - value
        total = (error + other_error + gamma(2) * np.abs(difference)) * (1 + 1e-12)
        return difference[:, self.outputs], total[:, self.outputs]

    def hash(self) -> str:
        """Return a SHA-256 over everything the answer depends on: both networks, domain and outputs."""
        digest = hashlib.sha256(b"milpq-problem/1")

        def feed(*arrays: Matrix | Int64Array | float | str) -> None:
            for array in arrays:
                if isinstance(array, str):
                    digest.update(array.encode())
                elif isinstance(array, int | float | np.ndarray):
                    data = np.ascontiguousarray(array)
                    digest.update(f"{data.dtype.str}{data.shape}".encode())
                    digest.update(data.tobytes())
                else:
                    feed(array.data, array.indices.astype(np.int64), array.indptr.astype(np.int64))

        for network in (self.float_network, self.quantized):
            feed(type(network).__name__, network.output)
            for node in network.nodes:
                feed(type(node).__name__)
                if isinstance(node, Clamp):
                    feed(node.source, node.lower, node.upper)
                elif isinstance(node, Smooth):
                    feed(node.source, node.curve.name)
                elif isinstance(node, Float32Error):
                    feed(node.source, node.relative, node.absolute)
                elif isinstance(node, DynamicQuantization):
                    feed(node.source)
                elif isinstance(node, Step):
                    function = node.function
                    feed(node.source, function.thresholds, function.values, function.rows, node.scale)
                else:
                    feed(node.bias)
                    for term in node.terms:
                        feed(term.source, term.matrix)
        if isinstance(self.quantized, IntegerNetwork) and isinstance(
            self.quantized.nodes[self.quantized.output - 1], IntegerAffine
        ):
            # Elsewhere the unit of an accumulator only aligns the networks.
            feed(self.quantized.output_scale)
        integer = self.domain.integer
        if integer is not None:
            feed(integer.scale, integer.float_scale, integer.level_lower, integer.level_upper)
            if integer.quantizer is not None:
                feed(integer.quantizer.thresholds)
        feed(self.domain.kind, self.domain.box.lower, self.domain.box.upper, self.outputs)
        return digest.hexdigest()
