"""Whole int8 models, bit for bit against the runtimes: at the input of a final LOGISTIC and after it."""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from ai_edge_litert import schema_py_generated as schema

from milpq.formats import load_quantized
from milpq.network.integer_network import IntegerNetwork
from milpq.network.quantized_model import QuantizedModel
from milpq.rounding.targets import get_target
from tests.oracle.execution import executed
from tests.oracle.runtimes import runtime

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = ROOT / "benchmarks" / "models"
OUTPUTS = 100_000
"""At least this many output codes are compared for each model and runtime."""

RUNTIMES = ["tflm", "litert-xnnpack", "litert-ref", "litert-nodelegate"]


def network(path: Path, target: str, *, keep: bool) -> IntegerNetwork:
    model = load_quantized(path, keep_final_activation=keep)
    assert isinstance(model, QuantizedModel)
    return model.on_target(get_target(target))


def public(name: str) -> Path:
    path = Path(os.environ.get("MILPQ_DATA", ROOT.parent / "shared" / "data")) / "models" / name
    if not path.is_file():
        pytest.skip("MILPQ_DATA is not there")
    return path


def integers_only(content: bytes, *, without_logistic: bool = False, last: int | None = None) -> bytes:
    """Return the model without QUANTIZE and DEQUANTIZE, without its LOGISTIC if asked for, cut after an operator."""
    import flatbuffers

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    if last is not None:
        graph.operators = graph.operators[: last + 1]
    dropped = {schema.BuiltinOperator.QUANTIZE, schema.BuiltinOperator.DEQUANTIZE}
    if without_logistic:
        dropped.add(schema.BuiltinOperator.LOGISTIC)
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    graph.operators = [part for part in graph.operators if codes[part.opcodeIndex] not in dropped]
    graph.inputs = [graph.operators[0].inputs[0]]
    graph.outputs = [graph.operators[-1].outputs[0]]
    model.signatureDefs = None
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def random_codes(inputs: int, outputs: int) -> npt.NDArray[np.int8]:
    """Return input codes: uniform ones, ends of the range only, and slow walks around a random point."""
    rng = np.random.default_rng(inputs)
    count = -(-OUTPUTS // outputs) // 3 + 1
    uniform = rng.integers(-128, 128, (count, inputs))
    ends = rng.choice([-128, 127], (count, inputs))
    walk = rng.integers(-128, 128, inputs) + rng.integers(-2, 3, (count, inputs)).cumsum(axis=0)
    return np.concatenate([uniform, ends, np.clip(walk, -128, 127)]).astype(np.int8)


@pytest.mark.parametrize("target", RUNTIMES)
@pytest.mark.parametrize("name", ["silabs_autoencoder_int8.tflite", "mlperftiny_ad01_int8.tflite"])
def test_public_models(name: str, target: str) -> None:
    path = public(name)
    for keep in (True, False):
        ours = network(path, target, keep=keep)
        codes = random_codes(ours.input.size, ours.output_size)
        content = integers_only(path.read_bytes(), without_logistic=not keep)
        theirs = runtime(target).run(content, codes)
        assert theirs.size >= OUTPUTS
        assert np.count_nonzero(executed(ours, codes) != theirs) == 0
        if not network(path, target, keep=False).note:
            break


@pytest.mark.parametrize("target", RUNTIMES)
def test_every_input_of_hello_world(target: str) -> None:
    path = public("tflm_hello_world_int8.tflite")
    codes = np.arange(-128, 128).astype(np.int8)[:, None]
    ours = executed(network(path, target, keep=False), codes)
    assert (ours == runtime(target).run(path.read_bytes(), codes)).all()


@pytest.mark.parametrize("target", RUNTIMES)
def test_real_inputs_of_a_whole_file(target: str) -> None:
    """QUANTIZE, layers, LOGISTIC and DEQUANTIZE: the file as it is, fed with real numbers."""
    path = public("silabs_autoencoder_int8.tflite")
    ours = network(path, target, keep=True)
    points = np.random.default_rng(5).uniform(-0.2, 1.0, (300, ours.input.size)).astype(np.float32)
    theirs = runtime(target).run(path.read_bytes(), points)
    assert ours.input.quantizer is not None
    levels = ours.execute(ours.input.quantizer(points.astype(np.float64)))
    assert (theirs == levels.astype(np.float32) * ours.output_scale.astype(np.float32)).all()


@pytest.mark.parametrize("target", RUNTIMES)
@pytest.mark.parametrize("name", ["digits_int8.tflite", "controller_int8.tflite"])
def test_bundled_models(name: str, target: str) -> None:
    ours = network(BUNDLED / name, target, keep=False)
    codes = random_codes(ours.input.size, ours.output_size)
    theirs = runtime(target).run((BUNDLED / name).read_bytes(), codes)
    assert theirs.size >= OUTPUTS
    assert np.count_nonzero(executed(ours, codes) != theirs) == 0


@pytest.mark.parametrize("target", ["tflm", "litert-xnnpack", "litert-ref"])
def test_resnet8(target: str, tmp_path: Path) -> None:
    """The whole residual network, at its logits and at the sums inside of it."""
    content = public("mlperftiny_resnet8_int8.tflite").read_bytes()
    rng = np.random.default_rng(8)
    compared = 0
    for last, count in ((3, 2), (11, 20), (14, 60)):  # the first and the last sum, the logits
        path = tmp_path / "cut.tflite"
        path.write_bytes(integers_only(content, last=last))
        ours = network(path, target, keep=False)
        codes = rng.integers(-128, 128, (count, 32, 32, 3))
        walk = rng.integers(-128, 128, (1, 32, 32, 3)) + rng.integers(-1, 2, (count, 32, 32, 3)).cumsum(
            axis=0
        )
        codes[::2] = np.clip(walk, -128, 127)[::2]
        theirs = runtime(target).run(path.read_bytes(), codes.astype(np.int8)).reshape(count, -1)
        found = executed(ours, codes.reshape(count, -1))
        assert np.count_nonzero(found != theirs) == 0
        compared += theirs.size
    assert compared >= OUTPUTS
