"""Every error milpq raises on purpose, and the exit code each one means on the command line.

A member of the tree is also the standard class a Python reader expects (``ValueError`` and so on), so
``except ValueError`` works for callers who know nothing of milpq.  Messages say what is wrong, where
(file, layer) and what to do about it, in one line.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import ClassVar


class MilpqError(Exception):
    """Root of the tree.  ``exit_code`` is what the command line returns for it."""

    exit_code: ClassVar[int] = 2

    def __str__(self) -> str:
        """Return the message on one line: names out of files may hold line ends and control characters."""
        text = super().__str__()
        return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class ModelFileError(MilpqError, ValueError):
    """A model file cannot be read: truncated, malformed, or not of the format it claims."""


class UnsupportedModelError(MilpqError, NotImplementedError):
    """A well-formed model uses an operator, type or option that milpq does not support."""


class InvalidNetworkError(MilpqError, ValueError):
    """A network is inconsistent: shapes that do not chain, NaN weights, scales that are not positive."""


class AccumulatorOverflowError(MilpqError, OverflowError):
    """An integer accumulator can leave int32 on some input, so the runtime's result is undefined."""


class NotAPairError(MilpqError, ValueError):
    """The two networks are not a float network and its quantized version."""


class RegionError(MilpqError, ValueError):
    """An input region is unreadable, empty, inverted, not finite or of the wrong length."""


class TargetError(MilpqError, ValueError):
    """An inference target is unknown, missing, or cannot run the given operator."""


class UsageError(MilpqError, ValueError):
    """An option or argument is out of its range or contradicts another one."""


class MissingDataError(MilpqError, FileNotFoundError):
    """A benchmark case needs a file of the data folder that is not there; the case is skipped."""


class SolverUnavailableError(MilpqError, RuntimeError):
    """A solver is not installed, has no licence, or refuses the size of the problem."""


class WorkersLostError(MilpqError, RuntimeError):
    """Worker processes died again and again, most often for want of memory."""


class OutOfTimeError(MilpqError, TimeoutError):
    """A part of a search has been stopped by its deadline; what was known before stands."""


class CertificateError(MilpqError, ValueError):
    """A certificate is malformed, damaged, or about other networks."""


class UnprovenError(CertificateError):
    """A certificate is well formed and about these networks, but does not prove its claim."""

    exit_code: ClassVar[int] = 3


class SoundnessError(MilpqError, AssertionError):
    """A bound was contradicted: an executed sample left it, or two sound bounds do not meet.

    This is the worst bug the product can have.  It is never caught to be retried.
    """

    exit_code: ClassVar[int] = 4


class DisjointBoundsError(SoundnessError):
    """Two bounds on one quantity do not meet.

    Where both bound the same set of points, one of them is wrong.  Where one is an assumption, as in a node of
    a branch and bound, no point satisfies it: that is a proof, and the node is done.
    """


_OF_MODELS: tuple[type[MilpqError], ...] = (
    ModelFileError,
    UnsupportedModelError,
    InvalidNetworkError,
    AccumulatorOverflowError,
    NotAPairError,
    TargetError,
)


@contextmanager
def about(origin: str, *kinds: type[MilpqError]) -> Generator[None]:
    """Put where something comes from in front of the errors raised within that do not say it themselves.

    What finds an error often knows the layer alone: networks are checked when they are made, steps when they are built.

    Parameters
    ----------
    origin : str
        A file, or two of them.
    kinds : types of errors
        Those that are about `origin`; by default those about models.
    """
    try:
        yield
    except MilpqError as error:
        message = str(error)
        if isinstance(error, kinds or _OF_MODELS) and origin not in message:
            error.args = (f"{origin}: {message}",)
        raise
