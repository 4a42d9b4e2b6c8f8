"""The file of a benchmark suite, as pydantic models: a grid of pairs, targets, regions, methods and limits.

Wherever a `Sweep` is meant, a list stands for one case an entry.  `suite_schema` returns the JSON Schema.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from milpq.errors import UsageError
from milpq.formats._files import read_text

Value = TypeVar("Value")
Sweep = Annotated[Value | list[Value], Field(union_mode="left_to_right")]
"""One value, or a list of values to try in turn."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Bits = Annotated[int, Field(ge=2, le=16)]
Count = Annotated[int, Field(ge=1, le=4096)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Name = Annotated[str, Field(min_length=1, max_length=80)]

MethodName: TypeAlias = Literal[
    "auto", "interval", "symbolic", "differential", "lp", "milp", "separate", "separate-milp", "naive-milp"
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    sweeps: ClassVar[tuple[str, ...]] = ()
    """The fields that may be sweeps; settled, they are the axes of a plot."""


class FilePair(_Strict):
    """Two model files.

    A path starts with ``bundled:`` (a model that comes with milpq), ``data:`` (a file of the folder that the
    environment variable ``MILPQ_DATA`` names; without it, such a case is skipped), or is relative to the suite.
    """

    name: Name
    float_file: Annotated[str, Field(alias="float")]
    quantized: str
    float_twin: Literal["file", "dequantized"] = "file"


class WeightsPair(_Strict):
    """A float network against itself with every weight matrix rounded: symmetric, per tensor, biases kept.

    The scale is ``max |W| / (2^(bits − 1) − 1)``; both sides compute in real arithmetic.
    """

    sweeps: ClassVar[tuple[str, ...]] = ("bits",)
    build: Literal["weights"]
    name: Name
    float_file: Annotated[str, Field(alias="float")]
    bits: Sweep[Bits] = 8


class FixedPointPair(_Strict):
    """A float ReLU network against its fixed-point version, stated as an open integer network.

    Weights, biases and activations have ``bits − 2`` fraction bits and are clipped to `bits` bits; inputs are
    int8 codes that the integer side reads as ``code / 256`` and the float side as ``code / 255``; hidden
    layers round half up and clip to ``[0, 2^bits − 1]``; the outputs are accumulators, not rounded.
    """

    sweeps: ClassVar[tuple[str, ...]] = ("bits",)
    build: Literal["fixed-point"]
    name: Name
    float_file: Annotated[str, Field(alias="float")]
    bits: Sweep[Annotated[int, Field(ge=3, le=16)]] = 8


class QuantizedPair(_Strict):
    """A float network and its integer version by milpq's own quantizer, at `bits` bits throughout.

    Activation ranges come from uniform random inputs of the box from `lower` to `upper`, real units.
    """

    sweeps: ClassVar[tuple[str, ...]] = ("bits",)

    build: Literal["quantized"]
    name: Name
    float_file: Annotated[str, Field(alias="float")]
    lower: list[Finite]
    upper: list[Finite]
    bits: Sweep[Bits] = 8
    seed: Seed = 0


class RandomPair(_Strict):
    """A random float ReLU network with equal hidden layers, and its integer version at `bits` bits.

    With `weights_only`, its version with rounded weights as in `WeightsPair` instead, in real arithmetic.
    """

    sweeps: ClassVar[tuple[str, ...]] = ("inputs", "width", "depth", "bits", "seed")
    build: Literal["random"]
    name: Name
    inputs: Sweep[Count]
    width: Sweep[Count]
    depth: Sweep[Count] = 2
    outputs: Count = 1
    bits: Sweep[Bits] = 8
    seed: Sweep[Seed] = 0
    weights_only: bool = False


def _pair_kind(value: object) -> str:
    """Tell the kinds of pair apart by their key `build`; files have none."""
    if isinstance(value, dict):
        return str(cast("dict[str, Any]", value).get("build", "files"))
    return str(getattr(value, "build", "files"))


PairSpec = Annotated[
    Annotated[FilePair, Tag("files")]
    | Annotated[WeightsPair, Tag("weights")]
    | Annotated[FixedPointPair, Tag("fixed-point")]
    | Annotated[QuantizedPair, Tag("quantized")]
    | Annotated[RandomPair, Tag("random")],
    Discriminator(_pair_kind),
]


class FileRegion(_Strict):
    """A region file; paths as in `FilePair`."""

    name: Name = "file"
    file: str


class BoxRegion(_Strict):
    """A box by its ends, real units."""

    name: Name = "box"
    lower: list[Finite]
    upper: list[Finite]


class BallRegion(_Strict):
    """``center ± radius``, real units; one number as the center stands for all inputs.

    With `codes_per_unit`, the codes ``round((center ± radius) · codes_per_unit)``, clipped to those the input
    can hold, and what the float side reads for them.
    """

    sweeps: ClassVar[tuple[str, ...]] = ("radius",)
    name: Name = "ball"
    center: float | list[Finite]
    radius: Sweep[Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    clip: Annotated[list[Finite], Field(min_length=2, max_length=2)] | None = None
    codes_per_unit: Positive | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> BallRegion:
        if self.clip is not None and self.codes_per_unit is not None:
            raise ValueError("clip and codes_per_unit exclude each other; codes are clipped anyway")
        return self


class CodesRegion(_Strict):
    """Input codes within a radius of a center, clipped to those the input can hold.

    The center is ``"zero"`` (the code of 0 everywhere), one code for all inputs, a list of codes, or ``"normal"``:
    rounded normal deviates around the code of 0 with standard deviation `spread`, from `seed`.
    """

    sweeps: ClassVar[tuple[str, ...]] = ("radius_codes",)
    name: Name = "codes"
    center_codes: int | list[int] | Literal["zero", "normal"] = "zero"
    spread: Positive = 15.0
    seed: Seed = 0
    radius_codes: Sweep[Annotated[int, Field(ge=0, le=2**15)]]


def _region_kind(value: object) -> str:
    """Tell the kinds of region apart by the key only one of them has."""
    kinds = {"file": "file", "lower": "box", "radius": "ball", "radius_codes": "codes"}
    if isinstance(value, dict):
        return next((kind for key, kind in kinds.items() if key in value), "file")
    return next(kind for key, kind in kinds.items() if hasattr(value, key))


RegionSpec = Annotated[
    Annotated[FileRegion, Tag("file")]
    | Annotated[BoxRegion, Tag("box")]
    | Annotated[BallRegion, Tag("ball")]
    | Annotated[CodesRegion, Tag("codes")],
    Discriminator(_region_kind),
]


class Limits(_Strict):
    """What a case may take.

    Parameters
    ----------
    time_s : seconds for the run; the process is stopped at `grace_s` more.
    memory_mib : mebibytes of the process.
    jobs : processes, or threads of the solver, of the case itself.
    """

    sweeps: ClassVar[tuple[str, ...]] = ("time_s", "jobs")
    time_s: Sweep[Positive] = 60.0
    grace_s: Positive = 20.0
    memory_mib: Annotated[int, Field(ge=256)] = 4096
    jobs: Sweep[Annotated[int, Field(ge=1, le=1024)]] = 1


class Grid(_Strict):
    """Every combination of what is listed is one case."""

    name: Name
    about: str = ""
    pairs: Annotated[list[PairSpec], Field(min_length=1)]
    regions: Annotated[list[RegionSpec], Field(min_length=1)]
    targets: list[str] = []
    domains: list[Literal["continuous", "codes"]] = []
    outputs: Annotated[list[list[Annotated[int, Field(ge=0)]] | Literal["all"]], Field(min_length=1)] = [
        "all"
    ]
    tolerances: list[Positive] = []
    methods: Annotated[list[MethodName], Field(min_length=1)] = ["auto"]
    solver: str = "auto"
    gap: Annotated[float, Field(ge=0, lt=1)] | None = None
    limits: Limits | None = None


class Suite(_Strict):
    """A benchmark suite."""

    schema_version: Annotated[Literal["milpq-suite/1"], Field(alias="schema")]
    title: str
    about: str = ""
    seed: Seed = 0
    gap: Annotated[float, Field(ge=0, lt=1)] = 1e-4
    limits: Limits = Limits()
    grid: Annotated[list[Grid], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_differ(self) -> Suite:
        names = [grid.name for grid in self.grid]
        if len(set(names)) < len(names):
            raise ValueError("two grids have one name")
        return self


def suite_schema() -> dict[str, Any]:
    """Return the JSON Schema of a suite file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Suite.model_json_schema()


def load_suite(path: Path) -> Suite:
    """Return the suite a TOML file describes.

    Raises
    ------
    UsageError
        The file is unreadable, or does not follow the schema; the place is named.
    """
    try:
        content = tomllib.loads(read_text(path, UsageError))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: is not TOML ({error})") from error
    try:
        return Suite.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{path}: {place or 'the suite'}: {first['msg']}") from error
