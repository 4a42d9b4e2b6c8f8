"""Certificates: the proof of a bound as a file, and the small independent program that checks it.

Nothing here imports bounds, solvers, or the search: the checker has arithmetic of its own.  Who reads these files, in
this order, needs no other to believe a proof, but for what is trusted: the readers of models in ``formats``, exact
execution in ``network``, the thresholds of ``rounding``, and ``merge``, which puts the two networks side by side.

`check`
    The claim is that of the file, about the two models at hand; it is proved where each leaf of each tree is.
`format`
    What a file holds, read piece by piece and believed in nothing.
`tree`
    The leaves of a tree cover the region, because both halves of a split together hold all it splits.
`forms`
    Numbers: a value as an affine form in symbols, each operation with a bound on its rounding.
`activations`, `stairs`
    ``φ`` and ``φ_q`` of a neuron lie between lines through a few points, and so within a band along any slope.
`traces`, `zonotope`
    A leaf that is bounded: both networks and their difference in forms, activation by activation.
`slopes`
    A leaf with multipliers: any multipliers give a bound, as what they leave is largest at corners of a polygon.
`rewriting`
    A leaf with planes: the same for ranges of every layer.
`execution`
    A leaf of few codes: all of them executed, the float side enclosed around each.
"""

from milpq.certificate.check import Verified, check

__all__ = ["Verified", "check"]
