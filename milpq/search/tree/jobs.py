"""What goes into a job of the tree, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass

from milpq._arrays import Float64Array
from milpq.milp.model import RowBlock
from milpq.search.pool import WitnessPool
from milpq.search.tree.branching import Gains
from milpq.search.tree.leaf import Leaf, Node


@dataclass(frozen=True, slots=True)
class Effort:
    """How a job spends its time.

    Parameters
    ----------
    programs : int
        Linear programs after which the nodes still open are handed back, for relaxations of their own: bounds
        propagated under more decisions are worth more than what they cost.
    candidates : int
        Branchings that are tried out at a node, as far as they have not been tried `reliable` times.
    reliable : int
    enumerate_codes, enumerate_cells : int or None
        Nodes with at most so many code vectors (cells) are executed; None takes what execution does in about
        the time of a few dozen linear programs.
    gap : float
        Relative gap that is good enough.
    tolerance : float or None
        Bounds below this are good enough.
    each : bool
        The gap is meant for each objective, not only for the largest.
    """

    programs: int = 24
    candidates: int = 6
    reliable: int = 2
    enumerate_codes: int | None = None
    enumerate_cells: int | None = None
    gap: float = 1e-4
    tolerance: float | None = None
    each: bool = False

    def threshold(self, pool: WitnessPool, objective: int) -> float:
        """Return the bound at which an objective needs no more work.

        A tolerance is decided exactly, however close the gap to it.
        """
        if self.tolerance is not None:
            return self.tolerance
        base = float(pool.lower[objective]) if self.each else pool.largest
        if base <= 0.0:
            return base
        # Closed at upper − lower ≤ gap·upper; a little earlier, for the roundings of that comparison.
        return max(base, base / (1.0 - self.gap) * (1.0 - 1e-12))


DEFAULT_EFFORT = Effort()


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A node to work on, with what is known so far.

    Parameters
    ----------
    node : Node
    pool : WitnessPool
    gains : Gains
    deadline : float or None
        When to stop, in seconds of `time.monotonic`.
    """

    node: Node
    pool: WitnessPool
    gains: Gains
    deadline: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Done:
    """What became of a node.

    Parameters
    ----------
    open : list of Node
        Nodes that stay open.
    leaves : list of Leaf
        Nodes that need no more work; together with the open ones they cover the node.
    row_blocks : tuple of RowBlock
        Names of the rows that the evidence found here refers to.
    pool : WitnessPool
    learned : Gains
        Of the branchings of this job.
    programs : int
        Linear programs solved.
    points : float64, shape (points, inputs)
        Inputs of the best relaxations: starts for a witness search.
    """

    open: list[Node]
    leaves: list[Leaf]
    row_blocks: tuple[RowBlock, ...]
    pool: WitnessPool
    learned: Gains
    programs: int
    points: Float64Array
