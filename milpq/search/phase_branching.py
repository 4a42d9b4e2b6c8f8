"""Which cut to make: what the relaxation loses at a neuron, times what cutting it has been seen to bring.

The loss at the mean choice is cheap and says where a node is loose, not how far a cut there brings its bound
down: that depends on how the neuron is placed in the network.  So the first nodes try their best offers out, and
all later ones multiply the losses by the rates learned there.

References: T. Achterberg, *Constraint Integer Programming*, 2007, sec. 5.4, for trials, pseudo-costs and products.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from milpq._arrays import Float64Array, Int64Array
from milpq.search.phase_nodes import Cuts, Offers

TRIALS: Final = 16
"""Offers that a node tries out."""

_PRIOR: Final = 10.0
"""Trials that a neuron nobody has tried is taken to have had, of average outcome."""

_LEAST: Final = 1e-4  # of the gains of a trial, as a part of what there is to gain


@dataclass(frozen=True, slots=True, eq=False)
class Experience:
    """Sums over trials, by side and open neuron, shape (3, 2, open): losses, gains below, and gains above the cut.

    The number of trials is kept for their average.
    """

    sums: Float64Array
    count: float

    @classmethod
    def none(cls, neurons: int) -> Experience:
        """Return that of no trial."""
        return cls(np.zeros((3, 2, neurons)), 0.0)

    def join(self, other: Experience) -> Experience:
        """Return that of both."""
        return Experience(self.sums + other.sums, self.count + other.count)

    def score(self, offers: Offers) -> Float64Array:
        """Return what the cuts on offer promise, shape (nodes, offers)."""
        if not self.count:
            return offers.gain
        average = _PRIOR * self.sums.sum(axis=(1, 2)) / self.count
        losses, below, above = self.sums[:, np.minimum(offers.side, 1), offers.neuron] + average[:, None]
        return offers.gain * (np.sqrt(below * above) / np.maximum(losses, 1e-300))

    def choose(self, offers: Offers) -> Cuts:
        """Return the most promising cut of every node."""
        return offers.take(np.arange(len(offers.gain)), self.score(offers).argmax(axis=1))


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """The most promising offers of some nodes, to be tried out.

    Parameters
    ----------
    rows, columns : int64, shape (cuts,)
        Nodes and offers.
    """

    offers: Offers
    rows: Int64Array
    columns: Int64Array

    @classmethod
    def of(cls, offers: Offers, experience: Experience) -> Trial:
        """Take the best of each node that promise anything."""
        score = experience.score(offers)
        best = np.argsort(-score, axis=1, kind="stable")[:, :TRIALS]
        rows = np.repeat(np.arange(len(score)), best.shape[1])
        columns = best.ravel()
        promising = offers.gain[rows, columns] > 0
        return cls(offers, rows[promising], columns[promising])

    @property
    def cuts(self) -> Cuts:
        """The cuts to try."""
        return self.offers.take(self.rows, self.columns)

    def settle(self, gains: Float64Array, most: Float64Array, neurons: int) -> tuple[Cuts, Experience]:
        """Return the best cut of every node, and what was learned.

        Parameters
        ----------
        gains : float64, shape (2, cuts)
            By which the bounds of the two parts are below that of the node; infinite for parts that are empty.
        most : float64, shape (nodes,)
            What there is to gain in each node: more does not count.  Where it is infinite, as no witness is known,
            it is the largest finite gain seen there.
        neurons : int
            Open neurons in all.
        """
        nodes = len(most)
        largest = np.zeros(nodes)
        np.maximum.at(largest, self.rows, np.where(np.isfinite(gains), gains, 0.0).max(axis=0))
        most = np.where(np.isfinite(most), most, largest)
        gains = np.clip(gains, _LEAST * most[self.rows], most[self.rows])
        product = np.full(self.offers.gain.shape, -1.0)
        product[self.rows, self.columns] = gains[0] * gains[1]
        sums = np.zeros((3, 2, neurons))
        place = np.minimum(self.offers.side[self.columns], 1), self.offers.neuron[self.columns]
        loss = self.offers.gain[self.rows, self.columns]
        for total, part in zip(sums, (loss, *gains), strict=True):
            np.add.at(total, place, part)
        cuts = self.offers.take(np.arange(nodes), product.argmax(axis=1))
        return cuts, Experience(sums, float(len(self.rows)))
