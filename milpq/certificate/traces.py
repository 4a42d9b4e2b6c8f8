"""What is known of both networks over leaves: value by value, and activation by activation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from milpq._arrays import BoolArray, Float64Array
from milpq.certificate.forms import Ends, Form
from milpq.certificate.stairs import Layer


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """What is known of one value of both networks.

    Parameters
    ----------
    a, d : Form
        Of the float side and of the difference.
    sides : Ends, Ends
        Of the float and of the quantized side, shape (neurons, leaves); those of forms may be tighter.
    sizes : pair of float64, shape (neurons, leaves)
        Both sides, and all summands of an affine map together, are no larger.
    """

    a: Form
    d: Form
    sides: tuple[Ends, Ends]
    sizes: tuple[Float64Array, Float64Array]


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """A batch of leaves from input to output.

    Parameters
    ----------
    input : Layer
        What both sides read, as an activation that changes nothing.
    layers : list of Layer
        The activations so far.
    sides, sizes : list of pairs
        As in `Value`, of each value so far.
    output : Value
        The last one.
    empty : bool, shape (leaves,)
        Where the decisions contradict the forms: no input satisfies them.
    """

    input: Layer
    layers: list[Layer]
    sides: list[tuple[Ends, Ends]]
    sizes: list[tuple[Float64Array, Float64Array]]
    output: Value
    empty: BoolArray


Ranges: TypeAlias = tuple[Ends, Ends, Ends]
"""Ends of ``a``, ``v`` and ``d``."""
