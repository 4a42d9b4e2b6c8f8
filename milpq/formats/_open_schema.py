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


class TargetRounding(_Strict):
    """Round as a target does; ``null`` leaves the choice to whoever reads the file."""

    target: str | None
    operator: Literal["fully_connected", "conv", "depthwise"] = "fully_connected"
    per_channel: bool = False


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
    weights: IntegerMatrix
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


def _layer_kind(value: Any) -> str:
    if isinstance(value, dict):
        return "lookup" if cast("dict[str, Any]", value).get("kind") == "lookup" else "linear"
    return "lookup" if isinstance(value, LookupLayer) else "linear"


Layer = Annotated[
    Annotated[LinearLayer, Tag("linear")] | Annotated[LookupLayer, Tag("lookup")], Discriminator(_layer_kind)
]


class NetworkFile(_Strict):
    """An integer network: its arithmetic, completely."""

    schema_version: Annotated[Literal["milpq-network/1"], Field(alias="schema")]
    note: str = ""
    arrays: str | None = None
    input: Input
    layers: Annotated[list[Layer], Field(min_length=1, max_length=10_000)]
    output: Annotated[int, Field(ge=0)] | None = None
