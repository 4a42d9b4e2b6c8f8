"""Certificates: the proof of a bound as a file, and the small independent program that checks it.

Nothing here imports bounds, solvers, or the search: the checker has arithmetic of its own.
"""

from milpq.certificate.check import Verified, check

__all__ = ["Verified", "check"]
