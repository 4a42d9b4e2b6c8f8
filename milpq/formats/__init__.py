"""Readers and writers of model and region files.  Each format imports its libraries only when it is used."""

from milpq.formats._files import TorchModule
from milpq.formats.load import load, load_float, load_quantized
from milpq.formats.region_files import load_region
from milpq.formats.save import check_save_path, check_saveable, save

__all__ = [
    "TorchModule",
    "check_save_path",
    "check_saveable",
    "load",
    "load_float",
    "load_quantized",
    "load_region",
    "save",
]
