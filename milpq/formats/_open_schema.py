"""The schema of the open integer-network file, as pydantic models."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

SCHEMA_VERSION = "milpq-network/1"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ArrayReference(_Strict):
    """An array of the ``.npz`` file beside the JSON file, by its key."""

    array: str


PositiveFloat = Annotated[float, Field(gt=0)]
IntegerMatrix = list[list[int]] | ArrayReference
IntegerVector = list[int] | ArrayReference
Integers = int | list[int] | ArrayReference
Scales = PositiveFloat | list[PositiveFloat] | ArrayReference


class SparseMatrix(_Strict):
    """A matrix of this `shape` by the places of its entries; the others are 0."""

    shape: tuple[int, int]
    rows: IntegerVector
    columns: IntegerVector
    values: IntegerVector


class TargetRounding(_Strict):
    """Round as a target does; ``null`` leaves the choice to whoever reads the file.

    `code_type` is that of the activations; `pairs_saturate` says whether two products of uint8 codes and int8 weights
    of a row can leave int16 together.
    """

    target: str | None
    operator: Literal["fully_connected", "conv", "depthwise"] = "fully_connected"
    per_channel: bool = False
    code_type: Literal["int8", "uint8"] = "int8"
    pairs_saturate: bool = False


class MultiplierRounding(_Strict):
    """``round(acc · multiplier · 2^(shift − 31))``, rounding ``"double"``, ``"single"`` or ``"ruy-x86"``."""

    multiplier: Integers
    shift: Integers
    rounding: str


class ShiftRounding(_Strict):
    """``round(acc / 2^shift)``, rounding half-up, floor, half-even, half-away or toward-zero."""

    shift: Integers
    rounding: str


class ThresholdRounding(_Strict):
    """``first_code`` plus the number of thresholds that the accumulator reaches.

    One row of sorted thresholds for each channel, or one for all.
    """

    thresholds: IntegerMatrix
    first_code: int


def _rounding_kind(value: Any) -> str:
    """Tell the kinds of rounding apart by the key only one of them has."""
    kinds = {"target": "target", "multiplier": "multiplier", "thresholds": "thresholds"}
    if isinstance(value, dict):
        return next((kind for key, kind in kinds.items() if key in value), "shift")
    return next((kind for key, kind in kinds.items() if hasattr(value, key)), "shift")


Rounding = Annotated[
    Annotated[TargetRounding, Tag("target")]
    | Annotated[MultiplierRounding, Tag("multiplier")]
    | Annotated[ShiftRounding, Tag("shift")]
    | Annotated[ThresholdRounding, Tag("thresholds")],
    Discriminator(_rounding_kind),
]


class Output(_Strict):
    """The codes a layer gives: ``clip(rounding(acc) + zero_point, code_lower, code_upper)``.

    The code limits hold the activation too.  A table of thresholds gives codes itself, zero point included.
    """

    scale: PositiveFloat
    zero_point: int = 0
    code_lower: int
    code_upper: int
    rounding: Rounding


class TableOutput(_Strict):
    """The codes of a table: what one of them is worth."""

    scale: PositiveFloat
    zero_point: int = 0


class Input(_Strict):
    """What the network reads.

    An input code stands for ``scale · (code − zero_point)`` on the integer side.  The float network reads
    ``float_scale · (code − zero_point)``, the same unless stated.  `rounding` names the rule by which real
    inputs become codes, where the file settles it.
    """

    size: Annotated[int, Field(ge=1)]
    scale: PositiveFloat
    zero_point: int = 0
    code_lower: int
    code_upper: int
    float_scale: Scales | None = None
    rounding: str | None = None


class LinearLayer(_Strict):
    """``acc = (weights − weight_zero_point) @ (codes − zero_point) + bias · 2^bias_shift``, then the output.

    One accumulator unit is worth ``input_scale · weight_scales``.  `source` is 0 for the network's input and
    ``k`` for layer k, counted from 1; the layer before if not given.  `channel` says which entry of the lists
    given per channel each neuron uses; its own if not given.  Without `output` the accumulator itself is the
    result, not rounded.
    """

    kind: Literal["linear"] = "linear"
    name: str
    source: Annotated[int, Field(ge=0)] | None = None
    weights: IntegerMatrix | SparseMatrix
    weight_zero_point: int = 0
    weight_scales: Scales
    bias: IntegerVector | None = None
    bias_shift: Annotated[int, Field(ge=0, le=31)] = 0
    input_scale: PositiveFloat | None = None
    channel: IntegerVector | None = None
    activation: Literal["none", "relu", "relu6", "relu_n1_to_1"] = "none"
    output: Output | None = None


class LookupLayer(_Strict):
    """A nondecreasing table of output codes, the first for input code `code_lower`, elementwise."""

    kind: Literal["lookup"]
    name: str
    source: Annotated[int, Field(ge=0)] | None = None
    table: IntegerVector
    code_lower: int
    output: TableOutput


class TargetKernel(_Strict):
    """Compute as a target does; ``null`` leaves the choice to whoever reads the file."""

    target: str | None
    as_unsigned: bool = False


class SumTables(_Strict):
    """``first_code`` plus the number of `thresholds` that ``first[x] + second[y]`` reaches.

    `first` and `second` are nondecreasing addends, one for each code of an operand from its `code_lower` on.
    """

    first: IntegerVector
    second: IntegerVector
    thresholds: IntegerVector
    first_code: int


def _kernel_kind(value: Any) -> str:
    has_target = "target" in value if isinstance(value, dict) else hasattr(value, "target")
    return "target" if has_target else "stated"


class Operand(_Strict):
    """A value that an operator reads, and the codes of its type."""

    source: Annotated[int, Field(ge=0)]
    code_lower: int
    code_upper: int


class CodesOutput(_Strict):
    """The codes an operator gives: what one of them is worth, and the smallest and largest."""

    scale: PositiveFloat
    zero_point: int = 0
    code_lower: int
    code_upper: int


class SumLayer(_Strict):
    """The sum of two values of one size, then the activation."""

    kind: Literal["sum"]
    name: str
    first: Operand
    second: Operand
    activation: Literal["none", "relu", "relu6", "relu_n1_to_1"] = "none"
    output: CodesOutput
    rounding: Annotated[
        Annotated[TargetKernel, Tag("target")] | Annotated[SumTables, Tag("stated")],
        Discriminator(_kernel_kind),
    ]


class AverageLayer(_Strict):
    """A pool or a mean: `candidates` are the neurons each neuron averages, −1 for none.

    `rounding` is that of a target, or gives thresholds for the sum of levels (codes minus zero point): one row, or one
    for each number of neurons that are averaged, in ascending order.
    """

    kind: Literal["average"]
    name: str
    operand: Operand
    candidates: IntegerMatrix
    operator: Literal["pool", "mean"]
    spatial_keep: bool = False
    activation: Literal["none", "relu", "relu6", "relu_n1_to_1"] = "none"
    output: CodesOutput
    rounding: Annotated[
        Annotated[TargetKernel, Tag("target")] | Annotated[ThresholdRounding, Tag("stated")],
        Discriminator(_kernel_kind),
    ]


class MaximumLayer(_Strict):
    """A max pool: `candidates` are the neurons that compete for each neuron, −1 for none; codes stay as they are."""

    kind: Literal["maximum"]
    name: str
    operand: Operand
    candidates: IntegerMatrix
    activation: Literal["none", "relu", "relu6", "relu_n1_to_1"] = "none"


class SelectionLayer(_Strict):
    """A pad, concatenation or any choice of neurons.

    `chosen` has a row for each operand: which of its neurons each neuron is, −1 if none.  `constant` is the level
    (code − zero point) of the neurons that are of no operand.
    """

    kind: Literal["selection"]
    name: str
    operands: Annotated[list[Operand], Field(min_length=1, max_length=1000)]
    chosen: IntegerMatrix
    constant: IntegerVector | None = None


class FunctionLayer(_Strict):
    """A function of codes that a target computes."""

    kind: Literal["function"]
    name: str
    operand: Operand
    operator: Literal["requantize", "relu", "relu6", "relu_n1_to_1", "logistic", "tanh"]
    output: CodesOutput
    target: str | None


def _layer_kind(value: Any) -> str:
    if isinstance(value, dict):
        return str(cast("dict[str, Any]", value).get("kind", "linear"))
    return str(getattr(value, "kind", "linear"))


Layer = Annotated[
    Annotated[LinearLayer, Tag("linear")]
    | Annotated[LookupLayer, Tag("lookup")]
    | Annotated[SumLayer, Tag("sum")]
    | Annotated[AverageLayer, Tag("average")]
    | Annotated[MaximumLayer, Tag("maximum")]
    | Annotated[SelectionLayer, Tag("selection")]
    | Annotated[FunctionLayer, Tag("function")],
    Discriminator(_layer_kind),
]


class NetworkFile(_Strict):
    """An integer network: its arithmetic, completely."""

    schema_version: Annotated[Literal["milpq-network/1"], Field(alias="schema")]
    note: str = ""
    arrays: str | None = None
    input: Input
    layers: Annotated[list[Layer], Field(min_length=1, max_length=10_000)]
    output: Annotated[int, Field(ge=0)] | None = None
