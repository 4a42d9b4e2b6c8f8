"""Answering a question: stages, budgets, and the anytime bracket."""

from milpq.formats.provenance import SourceFile
from milpq.verify.assertion import assert_quantization_error
from milpq.verify.bracket import MethodRecord, Progress, Trust
from milpq.verify.conductor import bound
from milpq.verify.explanation import Explanation, Share
from milpq.verify.layers import explain
from milpq.verify.result import (
    EXIT_CODES,
    SCHEMA,
    CertificateNote,
    Environment,
    ExecutedWitness,
    Memory,
    OutputBracket,
    Question,
    Result,
    Status,
    Times,
)
from milpq.verify.sampling import Sampled

__all__ = [
    "EXIT_CODES",
    "SCHEMA",
    "CertificateNote",
    "Environment",
    "ExecutedWitness",
    "Explanation",
    "Memory",
    "MethodRecord",
    "OutputBracket",
    "Progress",
    "Question",
    "Result",
    "Sampled",
    "Share",
    "SourceFile",
    "Status",
    "Times",
    "Trust",
    "assert_quantization_error",
    "bound",
    "explain",
]
