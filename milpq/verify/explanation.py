"""The answer to *where does the error come from*: the shares of all sources, and what to do about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from milpq._arrays import Float64Array
from milpq.bounds.attribution import Kind
from milpq.formats.provenance import SourceFile
from milpq.verify.numbers import downward, upward

EXPLANATION_SCHEMA: Final = "milpq-explanation/1"

_REMEDIES: Final[dict[Kind, str]] = {
    "input": "more input bits",
    "weights": "more weight bits in {layer}",
    "rounding": "more activation bits after {layer}",
    "saturation": "a wider output range of {layer}",
}


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """What one source of error contributes to ``|f_q − f|`` of each chosen output, real units.

    Parameters
    ----------
    kind : Kind
    layer : str
    certified : float64, shape (chosen,)
        At no input of the region does the source contribute more.
    sampled, rms : float64, shape (chosen,)
        The largest contribution seen at random inputs, and the root of the mean square.
    """

    kind: Kind
    layer: str
    certified: Float64Array
    sampled: Float64Array
    rms: Float64Array

    @property
    def remedy(self) -> str:
        """What makes this source smaller."""
        return _REMEDIES[self.kind].format(layer=self.layer)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Explanation:
    """The shares of all sources, in the order of the layers.

    Parameters
    ----------
    shares : tuple of Share
    outputs : tuple of int
        The outputs asked about.
    upper : float64, shape (chosen,)
        Certified bound on ``|f_q − f|`` of each; the certified shares add up to at least that.
    sampled : float64, shape (chosen,)
        The largest ``|f_q − f|`` seen.
    lsb : float64, shape (chosen,), or None
        Real value of one output code.
    hash : str
        Of the problem.
    float_origin, quantized_origin, region_origin : str
        Where each came from.
    target : str or None
        None for a real quantized side.
    input_domain : str
    parts, points : int
        Parts of the region that were bounded, random inputs that were executed.
    seed : int
        Of the random inputs.
    notes : tuple of str
        What a reader of the answer must know.
    time_s : float
        Seconds of wall time.
    files : tuple of SourceFile
        The files the networks and the region were read from.
    """

    shares: tuple[Share, ...]
    outputs: tuple[int, ...]
    upper: Float64Array
    sampled: Float64Array
    lsb: Float64Array | None
    hash: str
    float_origin: str
    quantized_origin: str
    region_origin: str
    target: str | None
    input_domain: str
    parts: int
    points: int
    seed: int
    notes: tuple[str, ...]
    time_s: float
    files: tuple[SourceFile, ...] = ()

    @property
    def worst(self) -> int:
        """Position of the output with the largest certified bound."""
        return int(np.argmax(self.upper))

    def ranked(self) -> list[Share]:
        """Return the shares of the worst output, the largest certified one first; without those that are zero."""
        j = self.worst
        return sorted((one for one in self.shares if one.certified[j] > 0), key=lambda one: -one.certified[j])

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers in order; the input is one."""
        return tuple(dict.fromkeys(one.layer for one in self.shares))

    def layer_shares(self) -> dict[str, float]:
        """Return what each layer contributes to the worst output at most: the sum of its certified shares."""
        j = self.worst
        sums = dict.fromkeys(self.layers, 0.0)
        for one in self.shares:
            sums[one.layer] += float(one.certified[j])
        return sums

    @property
    def advice(self) -> str:
        """Say what would lower the worst output's bound most."""
        ranked = self.ranked()
        if not ranked:
            return "the two networks do not differ"
        j, first = self.worst, ranked[0]
        share = float(first.certified[j]) / sum(float(one.certified[j]) for one in ranked)
        text = f"first {first.remedy}: the largest certified share of output {self.outputs[j]}, {share:.0%} of the sum"
        seen = max(ranked, key=lambda one: one.rms[j])
        return text if seen is first else f"{text}; by the samples, {seen.remedy}"

    def report(self) -> dict[str, object]:
        """Return everything as JSON-ready values; lists have one entry for each chosen output."""
        return {
            "schema": EXPLANATION_SCHEMA,
            "outputs": list(self.outputs),
            "upper": self.upper.tolist(),
            "sampled": self.sampled.tolist(),
            "lsb": None if self.lsb is None else self.lsb.tolist(),
            "shares": [
                {
                    "kind": one.kind,
                    "layer": one.layer,
                    "certified": one.certified.tolist(),
                    "sampled": one.sampled.tolist(),
                    "rms": one.rms.tolist(),
                }
                for one in self.shares
            ],
            "advice": self.advice,
            "problem": {
                "hash": self.hash,
                "float": self.float_origin,
                "quantized": self.quantized_origin,
                "target": self.target,
                "region": self.region_origin,
                "input_domain": self.input_domain,
                "notes": list(self.notes),
                "files": [file.report() for file in self.files],
            },
            "parts": self.parts,
            "points": self.points,
            "seed": self.seed,
            "time_s": self.time_s,
        }

    def __repr__(self) -> str:
        """Say the bound of the worst output, and the largest shares."""
        j = self.worst
        largest = ", ".join(
            f"{one.layer} {one.kind} {upward(one.certified[j], 3)}" for one in self.ranked()[:3]
        )
        return (
            f"<milpq.Explanation of output {self.outputs[j]}: |f_q - f| <= {upward(self.upper[j])}, "
            f"seen {downward(self.sampled[j])}; largest shares {largest or 'none'}>"
        )
