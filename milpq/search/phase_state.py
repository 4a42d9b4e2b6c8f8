"""Where a search that cuts phases and rounding steps stands.

The state is a cover: for each objective whose root has been bounded, every input lies in an open node, or in a closed
one whose bound is in `closed`.  Nodes are ranges of the neurons that the bounds of the whole domain leave open, so a
state goes with these bounds (`milpq.search.bounds_state`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from milpq._arrays import Float64Array, Int64Array
from milpq.search.checkpoint import Arrays, fitting_array
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
    def of(cls, arrays: Arrays, inputs: int, objectives: int, neurons: int) -> PhaseState:
        """Return the state that a journal has kept.

        Parameters
        ----------
        neurons : int
            That the bounds of the whole domain leave open.

        Raises
        ------
        KeyError, ValueError
            It does not fit the problem.
        """
        count = len(arrays["order"])
        shapes: dict[str, tuple[str, *tuple[int, ...]]] = {
            "ranges": ("f8", count, 6, neurons),
            "multipliers": ("f4", count, 2 * neurons),
            **dict.fromkeys(("objective", "stalled", "neuron", "side"), ("i8", count)),
            **dict.fromkeys(("upper", "below", "above"), ("f8", count)),
        }
        nodes = PhaseNodes(
            **{name: fitting_array(arrays, f"node_{name}", *shape) for name, shape in shapes.items()}
        )
        limits = (nodes.objective, 0, objectives), (nodes.neuron, -1, neurons), (nodes.side, 0, 6)
        if any(((part < least) | (part >= stop)).any() for part, least, stop in limits):
            raise ValueError("a node names an objective, neuron or range that does not exist")
        return cls(
            nodes,
            fitting_array(arrays, "order", "i8", count),
            fitting_array(arrays, "upper", "f8", objectives),
            fitting_array(arrays, "closed", "f8", objectives),
            fitting_array(arrays, "roots", "i8", None),
            Experience(arrays["sums"], float(arrays["trials"][0])),
            fitting_array(arrays, "witnesses", "f8", None, inputs),
            fitting_array(arrays, "counts", "i8", 2),
        )
