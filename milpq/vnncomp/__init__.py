"""Two-network queries of the neural network verification competition (VNN-COMP), decided with the merged network."""

from milpq.vnncomp.decide import Answer
from milpq.vnncomp.instance import VERSION, network_paths, run_instance

__all__ = ["VERSION", "Answer", "network_paths", "run_instance"]
