"""One call of a Keras layer: its options and weights read with care, and the values it reads and makes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np

from milpq._arrays import Float64Array
from milpq.errors import InvalidNetworkError, ModelFileError, UnsupportedModelError
from milpq.formats._float_builder import FloatBuilder
from milpq.formats._keras_store import Config
from milpq.network.curves import SIGMOID, TANH
from milpq.network.geometry import Layout

LAYOUT: Final[Layout] = "channels_last"

LARGEST = 2**20
"""Largest kernel, stride, dilation or padding."""

_CLAMPS = {"relu": (0.0, np.inf), "relu6": (0.0, 6.0)}
_ENDS = ("sigmoid", "softmax")


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value of the FloatBuilder under its shape without batch.

    Parameters
    ----------
    after, before : the sigmoid or softmax that it is the result of, and the value that one reads; what ends in it is
        answered there
    padded : what zeros were put around, and how many (before, after) each spatial axis
    """

    value: int
    shape: tuple[int, ...]
    after: str = ""
    before: int = 0
    padded: tuple[Tensor, tuple[tuple[int, int], ...]] | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    """One call of a layer."""

    builder: FloatBuilder
    name: str
    where: str
    options: Config
    weights: list[Float64Array]
    sources: list[Tensor]

    def unsupported(self, what: str) -> UnsupportedModelError:
        """Return the error that this layer `what`."""
        return UnsupportedModelError(f"{self.where}: {what}")

    def damaged(self, what: str) -> ModelFileError:
        """Return the error that this layer is malformed."""
        return ModelFileError(f"{self.where}: {what}")

    @property
    def source(self) -> Tensor:
        """What a layer of one input reads."""
        if len(self.sources) != 1:
            raise self.damaged(f"reads {len(self.sources)} values instead of one")
        return self.sources[0]

    @property
    def image(self) -> Tensor:
        """What a layer of one image reads."""
        if len(self.source.shape) != 3 or self.options.get("data_format", LAYOUT) != LAYOUT:
            raise self.unsupported(
                "reads other than (height, width, channels); use data_format='channels_last'"
            )
        return self.source

    def weight(self, position: int, shape: tuple[int, ...]) -> Float64Array:
        """Return a weight, which must have a shape."""
        found = self.weights[position].shape if position < len(self.weights) else None
        if found != shape:
            raise InvalidNetworkError(f"{self.where}: weight {position} has shape {found} instead of {shape}")
        return self.weights[position]

    def pair(self, name: str, default: object = None) -> tuple[int, int]:
        """Return an option that is one or two positive integers."""
        given: object = self.options.get(name, default)
        both: list[Any] = cast("list[Any]", given) if isinstance(given, list | tuple) else [given, given]
        if len(both) != 2 or any(type(number) is not int or not 0 < number <= LARGEST for number in both):
            raise self.damaged(f"its {name} {given!r:.80} is not two positive integers")
        return int(both[0]), int(both[1])

    def flag(self, name: str, *, default: bool) -> bool:
        """Return an option that is true or false."""
        return bool(self.options.get(name, default))

    def number(self, name: str, default: float | None) -> float | None:
        """Return an option that is a number, as the float32 it is computed with, or None."""
        given: object = self.options.get(name, default)
        if given is None:
            return None
        if isinstance(given, bool) or not isinstance(given, int | float):
            raise self.damaged(f"its {name} is no number")
        with np.errstate(over="ignore"):
            return float(np.float32(given))

    def activated(self, value: int, shape: tuple[int, ...]) -> Tensor:
        """Return the activation of a value."""
        given: object = self.options.get("activation")
        if isinstance(given, dict):
            # Keras 3 states some of its own functions as objects.
            given = cast("Config", given).get("config", given)
        if given in {None, "linear"}:
            return Tensor(value, shape)
        if given == "tanh":
            return Tensor(self.builder.smooth(f"{self.name}/tanh", value, TANH), shape)
        if given in _ENDS:
            return self.ended(str(given), value, shape)
        if given not in _CLAMPS:
            raise self.unsupported(
                f"has activation {given!r:.80}; milpq reads linear, relu, relu6, and sigmoid at the end"
            )
        return Tensor(self.builder.clamp(f"{self.name}/{given}", value, *_CLAMPS[str(given)]), shape)

    def ended(self, kind: str, value: int, shape: tuple[int, ...]) -> Tensor:
        """Return the sigmoid or softmax of a value, which is left out where it is the last layer."""
        result = self.builder.smooth(f"{self.name}/sigmoid", value, SIGMOID) if kind == "sigmoid" else value
        return Tensor(result, shape, after=kind, before=value)

    def check(self, shape: tuple[int, ...], weights: int) -> None:
        """Raise UnsupportedModelError if a layer of this shape and number of weights is too large."""
        self.builder.check_size(math.prod(shape), f"layer {self.name!r}")
        self.builder.check_weights(weights, f"layer {self.name!r}")
