"""Readers of model and region files.  Each format imports its libraries only when a file of it is read."""

from milpq.formats.load import load, load_float, load_quantized
from milpq.formats.region_files import load_region

__all__ = ["load", "load_float", "load_quantized", "load_region"]
