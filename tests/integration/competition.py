"""Small two-network instances, and a check of counterexamples that shares nothing with milpq."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import vnnlib

NETWORKS = """(vnnlib-version <2.0>)
(declare-network f (declare-input X_f real [3]) (declare-output Y_f real [2]))
(declare-network g ({relation} f) (declare-input X_g real [3]) (declare-output Y_g real [2]))
"""
SAME_INPUT = "".join(f"(assert (== X_f[{i}] X_g[{i}]))\n" for i in range(3))
BOX = "".join(f"(assert (and (<= X_f[{i}] 0.7) (>= X_g[{i}] -0.45)))\n" for i in range(3))


def violation(epsilon: float, strict: bool = True) -> str:
    """Assert that some output differs by more than epsilon."""
    more, less = (">", "<") if strict else (">=", "<=")
    sides = "".join(
        f"({more} Y_g[{j}] (+ Y_f[{j}] {epsilon})) ({less} Y_g[{j}] (- Y_f[{j}] {epsilon})) "
        for j in range(2)
    )
    return f"(assert (or {sides}))\n"


def equivalence(epsilon: float) -> str:
    """Assert that no output differs by more than epsilon."""
    return "".join(
        f"(assert (and (<= Y_g[{j}] (+ Y_f[{j}] {epsilon})) (>= Y_g[{j}] (- Y_f[{j}] {epsilon}))))\n"
        for j in range(2)
    )


def write_query(path: Path, *assertions: str, relation: str = "isomorphic-to") -> Path:
    """Write a query of both networks over the box."""
    path.write_text(NETWORKS.format(relation=relation) + "".join(assertions), encoding="utf-8")
    return path


def write_network(
    path: Path, seed: int, change: float = 0.0, hidden: int = 6, end: str | None = None
) -> Path:
    """Write a ReLU network 3-hidden-2 as ONNX; `change` moves its weights, `end` is a last operator."""
    rng = np.random.default_rng(seed)
    shapes = {"W0": (3, hidden), "B0": (hidden,), "W1": (hidden, 2), "B1": (2,)}
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    other = np.random.default_rng(seed + 1000)
    arrays = {
        name: (array + change * other.normal(size=array.shape)).astype(np.float32)
        for name, array in arrays.items()
    }
    node = onnx.helper.make_node
    graph = onnx.helper.make_graph(
        [
            node("Flatten", ["x"], ["flat"]),
            node("Gemm", ["flat", "W0", "B0"], ["a"]),
            node("Relu", ["a"], ["h"]),
            node("Gemm", ["h", "W1", "B1"], ["y" if end is None else "z"]),
            *([] if end is None else [node(end, ["z"], ["y"])]),
        ],
        "small",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 1, 3])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 2])],
        [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return path


def counterexample_holds(
    query_file: Path, models: dict[str, Path], result: str, tolerance: float = 1e-6
) -> bool:
    """Replay a counterexample with ONNX Runtime and the parser of the standard, as the organizers do.

    Constraints on inputs alone may be off by `tolerance`, what float32 loses of a decimal; others not at all.
    """
    query = vnnlib.parse_query_string(query_file.read_text())
    lines = result.split("\n")
    assert lines[0] == "sat"
    position, given, computed = 1, {}, {}
    for network in query.networks:
        for tensor in (*network.inputs, *network.outputs):
            shape = ",".join(map(str, tensor.shape))
            assert lines[position] == f"{tensor.name} real [{shape}]"
            count = int(np.prod(tensor.shape))
            values = [float(line) for line in lines[position + 1 : position + 1 + count]]
            given[tensor.name] = np.array(values).reshape(tensor.shape)
            position += 1 + count
    assert lines[position:] == [""]
    for network in query.networks:
        session = onnxruntime.InferenceSession(models[network.name], providers=["CPUExecutionProvider"])
        entry, tensor = session.get_inputs()[0], network.inputs[0].name
        narrow = given[tensor].astype(np.float32)
        computed[tensor] = narrow.astype(np.float64)
        (outputs,) = session.run(None, {entry.name: narrow.reshape(entry.shape)})
        name = network.outputs[0].name
        computed[name] = outputs.astype(np.float64).reshape(given[name].shape)
        assert np.allclose(computed[name], given[name], rtol=1e-5, atol=1e-6)
    inputs = {network.inputs[0].name for network in query.networks}
    return all(_truth(assertion.expr, computed, inputs, tolerance) for assertion in query.assertions)


def _truth(node: object, values: dict, inputs: set[str], tolerance: float) -> bool:
    name = type(node).__name__
    if name in {"And", "Or"}:
        return {"And": all, "Or": any}[name](_truth(part, values, inputs, tolerance) for part in node.args)
    linear = (node.lhs.to_linear_expr(), node.rhs.to_linear_expr())
    sides = [
        side.constant
        + sum(term.coeff * values[term.var.name][tuple(term.var.indices)] for term in side.terms)
        for side in linear
    ]
    gap = sides[0] - sides[1]
    if {term.var.name for side in linear for term in side.terms} <= inputs:
        gap -= tolerance * np.sign(gap) if abs(gap) > tolerance else gap
    return {
        "LessEqual": gap <= 0,
        "LessThan": gap < 0,
        "GreaterEqual": gap >= 0,
        "GreaterThan": gap > 0,
        "Equal": gap == 0,
        "NotEqual": gap != 0,
    }[name]
