"""Read a Keras model, `.keras` or `.h5`, as a FloatNetwork; neither Keras nor TensorFlow is imported."""

from __future__ import annotations

import math
from typing import Any, TypeAlias, cast

from milpq.errors import ModelFileError, UnsupportedModelError
from milpq.formats._files import PathLike
from milpq.formats._float_builder import SIGMOID_NOTE, SOFTMAX_NOTE, FloatBuilder
from milpq.formats._keras_layer import Layer, Tensor
from milpq.formats._keras_layers import HANDLERS, SHAPE_ONLY
from milpq.formats._keras_store import Config, KerasStore
from milpq.network.float_network import FloatNetwork

NOTES = {"sigmoid": SIGMOID_NOTE, "softmax": SOFTMAX_NOTE}

Place: TypeAlias = "tuple[str, int]"
"""A call of a layer: its name, and which of its calls."""

MAX_CALLS = 10_000


def read_keras(path: PathLike) -> FloatNetwork:
    """Return the real-arithmetic function of the weights of a Sequential or Functional model.

    Images lie in NHWC order.  A sigmoid or softmax at the end is left out, and `note` says so.

    Raises
    ------
    ModelFileError
        The file is missing, damaged or no Keras model.
    UnsupportedModelError
        It uses a layer or option that milpq does not read; the layer is named.
    InvalidNetworkError
        Shapes do not fit; the layer is named.
    UsageError
        h5py is not installed.
    """
    store = KerasStore(path)
    kind = store.config.get("class_name")
    config = _dict(store.config, "config")
    layers = _list(config, "layers") or _list(store.config, "config")
    if kind not in {"Sequential", "Functional", "Model"}:
        raise UnsupportedModelError(
            f"{path}: is a {kind!r:.80}; milpq reads Sequential and Functional models"
        )
    if not layers or any(not _dict(layer, "config") for layer in layers):
        raise ModelFileError(f"{path}: a layer has no configuration")
    reader = _Reader(store, cast("list[Config]", layers))
    return reader.sequential(config) if kind == "Sequential" else reader.functional(config)


class _Reader:
    """Runs through the layers; `values` holds what each call gives."""

    def __init__(self, store: KerasStore, layers: list[Config]) -> None:
        self.store = store
        self.layers = layers
        self.places = store.places(layers)
        self.values: dict[Place, Tensor] = {}

    def sequential(self, config: Config) -> FloatNetwork:
        first = self.layers[0] if self.layers else {}
        shape = first.get("config", {}).get("batch_shape") or first.get("config", {}).get("batch_input_shape")
        builder, value = self._begin(shape or config.get("build_input_shape"))
        for index, layer in enumerate(self.layers):
            if layer.get("class_name") != "InputLayer":
                value = self._call(builder, index, [value])
        return self._finish(builder, value)

    def functional(self, config: Config) -> FloatNetwork:
        path = self.store.path
        (first, call), output = self._end(config, "input_layers"), self._end(config, "output_layers")
        names = [str(layer["config"].get("name", layer.get("name", ""))) for layer in self.layers]
        if first not in names or call:
            raise ModelFileError(f"{path}: its input {first!r:.80} is no layer")
        options = self.layers[names.index(first)]["config"]
        builder, value = self._begin(options.get("batch_shape") or options.get("batch_input_shape"))
        self.values[first, 0] = value
        waiting: list[tuple[int, int, list[Place]]] = []
        for index, layer in enumerate(self.layers):
            if names[index] != first:
                waiting += [
                    (index, call, self._reads(index, node))
                    for call, node in enumerate(_list(layer, "inbound_nodes"))
                ]
        if len(waiting) > MAX_CALLS:
            raise UnsupportedModelError(f"{path}: has {len(waiting)} layers; milpq reads {MAX_CALLS}")
        while waiting:
            ready = [entry for entry in waiting if all(place in self.values for place in entry[2])]
            if not ready:
                raise ModelFileError(f"{path}: layer {names[waiting[0][0]]!r:.80} reads what no layer gives")
            for index, call, reads in ready:
                self.values[names[index], call] = self._call(
                    builder, index, [self.values[place] for place in reads]
                )
            waiting = [entry for entry in waiting if entry not in ready]
        if output not in self.values:
            raise ModelFileError(f"{path}: no layer gives its output {output[0]!r:.80}")
        return self._finish(builder, self.values[output])

    def _begin(self, shape: object) -> tuple[FloatBuilder, Tensor]:
        path = self.store.path
        extents = cast("list[Any]", shape)[1:] if isinstance(shape, list) else []
        if not extents or any(type(extent) is not int or extent < 1 for extent in extents):
            raise UnsupportedModelError(
                f"{path}: its input shape {shape!r:.80} is not settled; build it with a fixed shape"
            )
        return FloatBuilder(math.prod(extents), str(path)), Tensor(0, tuple(extents))

    def _call(self, builder: FloatBuilder, index: int, sources: list[Tensor]) -> Tensor:
        layer = self.layers[index]
        kind, options = layer.get("class_name"), cast("Config", layer["config"])
        name = str(options.get("name", ""))
        where = f"{self.store.path}: layer {str(kind)[:80]} {name[:80]!r}"
        registered = layer.get("registered_name")
        if kind not in HANDLERS or registered not in {None, kind}:
            raise UnsupportedModelError(
                f"{where}: is not supported; milpq reads {', '.join(sorted(HANDLERS))}"
            )
        if any(source.after == "softmax" for source in sources) and kind not in SHAPE_ONLY:
            raise UnsupportedModelError(
                f"{where}: follows a softmax, which milpq reads only as the last layer"
            )
        weights = self.store.weights(self.places[index], where) if kind in _WEIGHTED else []
        return HANDLERS[str(kind)](Layer(builder, name, where, options, weights, sources))

    def _finish(self, builder: FloatBuilder, output: Tensor) -> FloatNetwork:
        if output.after:
            return builder.finish(output.before, NOTES[output.after])
        return builder.finish(output.value)

    def _end(self, config: Config, name: str) -> Place:
        """Return the one input or output of the model."""
        ends = _list(config, name)
        if len(ends) == 3 and isinstance(ends[0], str):
            ends = [ends]
        if len(ends) != 1:
            raise UnsupportedModelError(
                f"{self.store.path}: has {len(ends)} {name}; milpq reads networks with one"
            )
        return self._place(ends[0], self.store.path)

    def _reads(self, index: int, node: Any) -> list[Place]:
        """Return what a call reads: tensors in nested lists (Keras 3), or lists of layer, call and output (Keras 2)."""
        where = f"{self.store.path}: layer {self.layers[index]['config'].get('name', '')!r:.80}"
        if isinstance(node, dict):
            return self._tensors(cast("Config", node).get("args"), where, 0)
        if not isinstance(node, list):
            raise ModelFileError(f"{where}: does not say what it reads")
        return [self._place(entry, where) for entry in cast("list[Any]", node)]

    def _tensors(self, argument: Any, where: str, depth: int) -> list[Place]:
        if isinstance(argument, list) and depth < 3:
            return [
                place
                for part in cast("list[Any]", argument)
                for place in self._tensors(part, where, depth + 1)
            ]
        if isinstance(argument, dict):
            options = _dict(cast("Config", argument), "config")
            return [self._place(options.get("keras_history"), where)]
        raise UnsupportedModelError(f"{where}: is called with an argument that is no tensor")

    def _place(self, entry: Any, where: PathLike) -> Place:
        parts = cast("list[Any]", entry) if isinstance(entry, list) else []
        if len(parts) < 3 or not isinstance(parts[0], str) or type(parts[1]) is not int or parts[2] != 0:
            raise ModelFileError(f"{where}: reads {entry!r:.80}, which is no tensor")
        return parts[0], parts[1]


_WEIGHTED = frozenset({"BatchNormalization", "Conv2D", "Dense", "DepthwiseConv2D"})


def _list(config: Config, name: str) -> list[Any]:
    found: object = config.get(name)
    return cast("list[Any]", found) if isinstance(found, list) else []


def _dict(config: object, name: str) -> Config:
    found: object = cast("Config", config).get(name) if isinstance(config, dict) else None
    return cast("Config", found) if isinstance(found, dict) else {}
