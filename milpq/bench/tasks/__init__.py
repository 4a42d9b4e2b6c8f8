"""What a suite can build: pairs made of one network, random pairs, and regions on codes."""

from milpq.bench.tasks.random_pair import quantized_on_box, random_pair
from milpq.bench.tasks.regions import build_region
from milpq.bench.tasks.weights import rounded_weights

__all__ = ["build_region", "quantized_on_box", "random_pair", "rounded_weights"]
