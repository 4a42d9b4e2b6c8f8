"""Branch and bound over the linear relaxation, every leaf with evidence that needs no solver."""

from milpq.search.tree.leaf import Decision, Evidence, EvidenceKind, Leaf, Node
from milpq.search.tree.search import TreeOptions, TreeResult, TreeSearch, TreeStatus, tree_search

__all__ = [
    "Decision",
    "Evidence",
    "EvidenceKind",
    "Leaf",
    "Node",
    "TreeOptions",
    "TreeResult",
    "TreeSearch",
    "TreeStatus",
    "tree_search",
]
