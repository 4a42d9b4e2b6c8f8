"""The nodes of the tree: what has been decided, the bound that follows, and why it holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from milpq._arrays import Float64Array, Int64Array
from milpq.milp.encode_clamp import Face


@dataclass(frozen=True, slots=True)
class Decision:
    """One neuron of one merged value restricted to an interval.

    Parameters
    ----------
    value : int
        Merged value index; 0 is the input.
    face : Face
        ``float``: real units.  ``quantized``: levels or accumulators, both ends whole; real units where the
        quantized side is real.
    neuron : int
    lower, upper : float
        Closed.  The two decisions of a branching share no integer, and share the end of a real interval.
    """

    value: int
    face: Face
    neuron: int
    lower: float
    upper: float


EvidenceKind: TypeAlias = Literal["root", "dual", "infeasible", "propagation", "enumeration", "cells"]
"""Why a bound holds.

``root``: the bounds that the search was started with.  ``dual``: `milpq.milp.safe.safe_upper_bound` of the row
duals.  ``infeasible``: `milpq.milp.safe.safe_infeasible` of the row duals, a Farkas ray; no input satisfies the
decisions.  ``propagation``: bounds propagated under the decisions, which may be found not to meet.
``enumeration``: all code vectors executed.  ``cells``: all code cells executed and bounded by the slopes of the
float side.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """Why the bound of a node holds.

    Parameters
    ----------
    kind : EvidenceKind
    depth : int
        How many of the node's decisions it takes into account: those of the ancestor it was found at.
    anchor : int
        How many of the node's decisions the rows were made under, for the two kinds with rows: the rows are
        those of `milpq.search.tree.region.anchor_encoding` under so many decisions.
    rows : int64, shape (rows,), or None
        The rows with a dual; the row blocks of the model name them (`milpq.milp.model.RowBlock`).
    duals : float64, shape (rows,)
        In the sign convention of `milpq.milp.safe.safe_upper_bound`.
    """

    kind: EvidenceKind
    depth: int
    anchor: int = 0
    rows: Int64Array | None = None
    duals: Float64Array | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A part of the domain: one objective over the points that satisfy some decisions.

    Parameters
    ----------
    objective : int
        In the order of `milpq.search.execution.signed`.
    decisions : tuple of Decision
        From the root down.  Later decisions on a neuron lie inside earlier ones.
    upper : float
        Upper bound on the objective there; minus infinity where no input satisfies the decisions.
    evidence : Evidence
    """

    objective: int
    decisions: tuple[Decision, ...]
    upper: float
    evidence: Evidence


Leaf: TypeAlias = Node
"""A node that needs no more work.  The leaves of an objective and its open nodes cover the domain."""
