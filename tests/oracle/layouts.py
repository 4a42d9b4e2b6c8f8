"""One float network written twice: as ONNX with NCHW images, and as `.tflite` with NHWC images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper, numpy_helper

from benchmarks.models.tflite_graph import GraphWriter
from tests.oracle.onnxruntime_models import save

SPATIAL, CHANNELS = (7, 6), 3


def twins(folder: Path, seed: int, *, transposed: bool = False) -> tuple[Path, Path]:
    """Write both files: strided, padded, depthwise and pointwise convolutions, a sum, pools, a join and a Gemm.

    With `transposed` the ONNX file reads NHWC and begins and ends its images with a Transpose, as converters do.
    """
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]) if len(shape) > 1 else 9)).astype(
            np.float32
        )

    kernels = {
        "c0": (draw(4, 3, 3, 3), draw(4)),
        "c1": (draw(4, 1, 3, 3), draw(4)),
        "c2": (draw(4, 4, 1, 1), draw(4)),
        "c3": (draw(2, 8, 2, 2), draw(2)),
    }
    dense = draw(5, 2 * 3 * 3), draw(5)

    constants = []

    def constant(name: str, values: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(values, name))
        return name

    def conv(name: str, source: str, **options: object) -> object:
        weights, bias = kernels[name]
        inputs = [source, constant(f"w{name}", weights), constant(f"b{name}", bias)]
        return helper.make_node("Conv", inputs, [name], name, **options)

    node = helper.make_node
    first = "image" if transposed else "x"
    nodes = [
        conv("c0", first, strides=[1, 2], pads=[1, 1, 1, 1]),
        node("Relu", ["c0"], ["r0"], "relu0"),
        conv("c1", "r0", group=4, auto_pad="SAME_UPPER"),
        node(
            "Clip", ["c1", constant("zero", np.float32(0)), constant("six", np.float32(6))], ["r1"], "relu6"
        ),
        conv("c2", "r1"),
        node("Add", ["c2", "r0"], ["sum"], "skip"),
        node("Relu", ["sum"], ["r2"], "relu2"),
        node("MaxPool", ["r2"], ["largest"], "largest", kernel_shape=[2, 1], strides=[2, 1]),
        node("AveragePool", ["r2"], ["mean"], "mean", kernel_shape=[2, 1], strides=[2, 1]),
        node("Concat", ["largest", "mean"], ["join"], "join", axis=1),
        conv("c3", "join", auto_pad="SAME_UPPER"),
        node("Relu", ["c3"], ["r3"], "relu3"),
    ]
    weights, bias = dense
    flat = "r3"
    if transposed:
        # A flattening of (height, width, channels), as TensorFlow has it.
        nodes.insert(0, node("Transpose", ["x"], ["image"], "front", perm=[0, 3, 1, 2]))
        nodes.append(node("Transpose", ["r3"], ["back"], "back", perm=[0, 2, 3, 1]))
        flat = "back"
        order = np.arange(18).reshape(2, 3, 3).transpose(1, 2, 0).ravel()
        stored = np.ascontiguousarray(weights[:, order])
    else:
        stored = weights
    nodes.append(node("Flatten", [flat], ["flat"], "flatten"))
    nodes.append(
        node("Gemm", ["flat", constant("w9", stored), constant("b9", bias)], ["y"], "dense", transB=1)
    )
    shape = [1, *SPATIAL, CHANNELS] if transposed else [1, CHANNELS, *SPATIAL]
    save(folder / "nchw.onnx", nodes, constants, shape, "y", [1, 5])

    graph = GraphWriter((1, *SPATIAL, CHANNELS), None)

    def last(name: str) -> np.ndarray:
        return np.ascontiguousarray(kernels[name][0].transpose(0, 2, 3, 1))

    value = graph.pad(graph.input, [(0, 0), (1, 1), (1, 1), (0, 0)])
    skip = graph.convolution(value, last("c0"), kernels["c0"][1], None, strides=(1, 2), activation="relu")
    depthwise = np.ascontiguousarray(kernels["c1"][0].transpose(1, 2, 3, 0))
    value = graph.convolution(
        skip, depthwise, kernels["c1"][1], None, padding="same", depthwise=True, activation="relu6"
    )
    value = graph.convolution(value, last("c2"), kernels["c2"][1], None)
    value = graph.add(value, skip, None, "relu")
    pools = [graph.pool(value, (2, 1), average=average, strides=(2, 1)) for average in (False, True)]
    value = graph.concatenate(pools, 3)
    value = graph.convolution(value, last("c3"), kernels["c3"][1], None, padding="same", activation="relu")
    value = graph.reshape(value, (1, 18))
    order = np.arange(18).reshape(2, 3, 3).transpose(1, 2, 0).ravel()
    value = graph.fully_connected(value, np.ascontiguousarray(weights[:, order]), bias, None)
    (folder / "nhwc.tflite").write_bytes(graph.finish(value))
    return folder / "nchw.onnx", folder / "nhwc.tflite"
