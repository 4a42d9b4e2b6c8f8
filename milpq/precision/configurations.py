"""Configurations, one width a layer, and what they cost; in the order of their cost."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np

from milpq._arrays import Matrix
from milpq.quantization import LinearLayer

Widths: TypeAlias = tuple[int, ...]
"""Bits of the weights of each layer."""

CostKind: TypeAlias = Literal["memory", "macs"]
COSTS: Final = ("memory", "macs")
"""Memory of weights and biases, in bits; or multiplications times bits of their weight."""

BIAS_BITS: Final = 32


@dataclass(frozen=True, slots=True)
class Costs:
    """What widths cost: ``fixed + Σ per_bit · width``, exact integers.

    Parameters
    ----------
    per_bit : tuple of int
        Weights of each layer, or multiplications.
    fixed : int
        What no width changes.
    """

    per_bit: tuple[int, ...]
    fixed: int

    @classmethod
    def of_layers(cls, layers: Sequence[LinearLayer], kind: CostKind) -> Costs:
        """Return the costs of a network's layers.

        A convolution holds each weight of its kernel once, taken as the count of different numbers in its
        sparse matrix, and multiplies as often as that has entries.
        """
        if kind == "macs":
            return cls(tuple(_entries(layer.matrix) for layer in layers), 0)
        stored = (
            layer.matrix.size if isinstance(layer.matrix, np.ndarray) else np.unique(layer.matrix.data).size
            for layer in layers
        )
        return cls(tuple(stored), sum(BIAS_BITS * len(layer.bias) for layer in layers))

    def of(self, widths: Widths) -> int:
        """Return what one configuration costs."""
        return self.fixed + sum(count * width for count, width in zip(self.per_bit, widths, strict=True))


def count_configurations(choices: Sequence[Sequence[int]]) -> int:
    """Return how many configurations there are."""
    return math.prod(len(widths) for widths in choices)


def by_cost(choices: Sequence[Sequence[int]], costs: Costs) -> Iterator[tuple[int, list[Widths]]]:
    """Yield every configuration once, those of one cost together, the cheapest first.

    Parameters
    ----------
    choices : the widths each layer may have, ascending
    """
    # Each configuration is reached from one other only: that with its last raised layer one step lower.
    first = tuple(widths[0] for widths in choices)
    heap: list[tuple[int, tuple[int, ...], int]] = [(costs.of(first), (0,) * len(choices), 0)]
    while heap:
        cost = heap[0][0]
        group: list[Widths] = []
        while heap and heap[0][0] == cost:
            _, steps, last = heapq.heappop(heap)
            group.append(tuple(widths[step] for widths, step in zip(choices, steps, strict=True)))
            for layer in range(last, len(choices)):
                if steps[layer] + 1 < len(choices[layer]):
                    raised = (*steps[:layer], steps[layer] + 1, *steps[layer + 1 :])
                    gain = choices[layer][raised[layer]] - choices[layer][steps[layer]]
                    heapq.heappush(heap, (cost + gain * costs.per_bit[layer], raised, layer))
        yield cost, sorted(group)


def _entries(matrix: Matrix) -> int:
    return matrix.size if isinstance(matrix, np.ndarray) else matrix.nnz
