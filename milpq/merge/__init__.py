"""The merged network and the domain of its input."""

from milpq.merge.align import QuantizedNetwork, merge
from milpq.merge.domain import Cubes, Domain, DomainKind
from milpq.merge.nodes import Merged, MergedActivation, MergedAffine, MergedNode, MergedTerm
from milpq.merge.problem import Problem

__all__ = [
    "Cubes",
    "Domain",
    "DomainKind",
    "Merged",
    "MergedActivation",
    "MergedAffine",
    "MergedNode",
    "MergedTerm",
    "Problem",
    "QuantizedNetwork",
    "merge",
]
