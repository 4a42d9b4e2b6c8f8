"""Float networks against ONNX Runtime, LiteRT and torch: equal up to float32 rounding."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from milpq.formats import load_float

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("MILPQ_DATA", ROOT.parent / "shared" / "data"))
BUNDLED = ROOT / "benchmarks" / "models"
RELATIVE = 1e-4
POINTS = 500


def close(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= RELATIVE * np.abs(ours).max()


@pytest.mark.parametrize(
    "path",
    sorted([*BUNDLED.glob("*.onnx"), *DATA.glob("acasxu/*.onnx"), *DATA.glob("mnist/*.onnx")]),
    ids=lambda path: path.name,
)
def test_onnx(path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    network = load_float(path)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0]
    shape = [extent if isinstance(extent, int) else 1 for extent in source.shape]
    points = np.random.default_rng(0).uniform(-0.5, 1.0, (POINTS, network.input_size)).astype(np.float32)
    theirs = [session.run(None, {source.name: point.reshape(shape)})[0].ravel() for point in points]
    close(network.evaluate(points.astype(np.float64)), np.stack(theirs))


class Images:
    """Builds an ONNX graph of image operators."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, *shape: int) -> str:
        return self.store(self.rng.normal(size=shape).astype(np.float32))

    def store(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def add(self, kind: str, *inputs: str, **options: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **options))
        return name

    def save(self, path: Path, shape: tuple[int, ...], output: str) -> None:
        ends = [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
            helper.make_tensor_value_info(output, TensorProto.FLOAT, None),
        ]
        graph = helper.make_graph(self.nodes, "images", ends[:1], ends[1:], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.save(model, path)


def random_images(rng: np.random.Generator) -> tuple[Images, str]:
    """Return a graph with every image operator, each with random options."""
    g = Images(rng)
    pads = [int(pad) for pad in rng.integers(0, 2, 4)]
    stride = int(rng.integers(1, 3))
    value = g.add("Conv", "x", g.constant(6, 3, 3, 2), g.constant(6), pads=pads, strides=[stride, 1])
    variance = g.store(rng.uniform(0.2, 2, 6).astype(np.float32))
    value = g.add("BatchNormalization", value, g.constant(6), g.constant(6), g.constant(6), variance)
    value = g.add("Relu", value)
    grouped = g.add("Conv", value, g.constant(12, 2, 3, 3), group=3, dilations=[2, 1], pads=[2, 1, 2, 1])
    grouped = g.add("Clip", grouped, g.store(np.float32(-1.5)), g.store(np.float32(6.0)))
    pointwise = g.add(
        "Conv", value, g.constant(12, 6, 2, 2), auto_pad=str(rng.choice(["SAME_UPPER", "SAME_LOWER"]))
    )
    value = g.add("Add", grouped, pointwise)
    pool = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}
    largest = g.add("MaxPool", value, **pool, ceil_mode=int(rng.integers(2)))
    mean = g.add("AveragePool", value, kernel_shape=[2, 2], strides=[2, 2])
    padded = g.add("Pad", largest, g.store(np.array([0, 0, 0, 1, 0, 0, 2, 0])), g.store(np.float32(0.25)))
    padded = g.add("Transpose", padded, perm=[0, 1, 3, 2])
    ends = [
        g.add("Flatten", padded),
        g.add(
            "Flatten",
            g.add(
                "BatchNormalization",
                mean,
                *[g.constant(12) for _ in range(3)],
                g.store(rng.uniform(0.2, 2, 12).astype(np.float32)),
            ),
        ),
        g.add("Flatten", g.add("GlobalAveragePool", value)),
        g.add("Flatten", g.add("GlobalMaxPool", value)),
        g.add("ReduceMean", g.add("Max", grouped, pointwise), g.store(np.array([2, 3])), keepdims=0),
    ]
    return g, g.add("Softmax", g.add("Concat", *ends, axis=1))


@pytest.mark.parametrize("seed", range(8))
def test_onnx_images(seed: int, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(seed)
    graph, output = random_images(rng)
    shape = (1, 3, 9, 8)
    for end in (output, graph.nodes[-1].input[0]):
        path = tmp_path / "images.onnx"
        graph.nodes = graph.nodes if end == output else graph.nodes[:-1]
        graph.save(path, shape, end)
        network = load_float(path)
        assert ("softmax" in network.note) == (end == output)
        assert "batch normalizations" in network.note
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    points = rng.uniform(-1, 1, (20, *shape[1:])).astype(np.float32)
    theirs = np.stack([session.run(None, {"x": point[None]})[0].ravel() for point in points])
    close(network.evaluate(points.reshape(20, -1).astype(np.float64)), theirs)


@pytest.mark.parametrize(
    "path",
    sorted(
        [
            *BUNDLED.glob("*_float.tflite"),
            *DATA.glob("models/*_fp32.tflite"),
            *DATA.glob("models/*_float.tflite"),
        ]
    ),
    ids=lambda path: path.name,
)
def test_tflite(path: Path) -> None:
    interpreter_module = pytest.importorskip("ai_edge_litert.interpreter")
    network = load_float(path)
    interpreter = interpreter_module.Interpreter(model_path=str(path), num_threads=1)
    source, result = (
        details()[0]["index"] for details in (interpreter.get_input_details, interpreter.get_output_details)
    )
    shape = interpreter.get_input_details()[0]["shape"][1:]
    count, upper = (20, 255.0) if "resnet8" in path.name else (POINTS, 1.0)
    points = np.random.default_rng(0).uniform(-0.5, upper, (count, network.input_size)).astype(np.float32)
    interpreter.resize_tensor_input(source, (count, *shape))
    interpreter.allocate_tensors()
    interpreter.set_tensor(source, points.reshape(count, *shape))
    interpreter.invoke()
    ours = network.evaluate(points.astype(np.float64))
    if "sigmoid" in network.note:
        ours = 1 / (1 + np.exp(-ours))
    elif "softmax" in network.note:
        ours = np.exp(ours - ours.max(axis=1, keepdims=True))
        ours /= ours.sum(axis=1, keepdims=True)
    close(ours, interpreter.get_tensor(result))
