"""Where a search that cuts phases and rounding steps stands.

The state is a cover: for each objective whose root has been bounded, every input lies in an open node, or in a closed
one whose bound is in `closed`.  Nodes are ranges of the neurons that the bounds of the whole domain leave open, so a
state goes with these bounds (`milpq.search.bounds_state`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from milpq._arrays import Float64Array, Int64Array
from milpq.search.checkpoint import Arrays
from milpq.search.phase_branching import Experience
from milpq.search.phase_nodes import PhaseNodes


@dataclass(frozen=True, slots=True, eq=False)
class PhaseState:
    """Where a search stands.

    Parameters
    ----------
    nodes : PhaseNodes
        The open ones.
    order : int64, shape (open,)
        Numbers by which equal bounds are told apart.
    upper, closed : float64, shape (objectives,)
        Bounds over the whole domain, and over the closed nodes.
    roots : int64, shape (left,)
        Objectives whose whole domain has not been bounded yet.
    experience : Experience
    witnesses : float64, shape (witnesses, inputs)
    counts : int64, shape (2,)
        Nodes and rounds.
    """

    nodes: PhaseNodes
    order: Int64Array
    upper: Float64Array
    closed: Float64Array
    roots: Int64Array
    experience: Experience
    witnesses: Float64Array
    counts: Int64Array

    def arrays(self) -> Arrays:
        """Return what a journal keeps."""
        result = {f"node_{part.name}": getattr(self.nodes, part.name) for part in fields(PhaseNodes)}
        return result | {
            "order": self.order,
            "upper": self.upper,
            "closed": self.closed,
            "roots": self.roots,
            "sums": self.experience.sums,
            "trials": np.array([self.experience.count]),
            "witnesses": self.witnesses,
            "counts": self.counts,
        }

    @classmethod
    def of(cls, arrays: Arrays) -> PhaseState:
        """Return the state that a journal has kept."""
        return cls(
            PhaseNodes(*(arrays[f"node_{part.name}"] for part in fields(PhaseNodes))),
            arrays["order"],
            arrays["upper"],
            arrays["closed"],
            arrays["roots"],
            Experience(arrays["sums"], float(arrays["trials"][0])),
            arrays["witnesses"],
            arrays["counts"],
        )
