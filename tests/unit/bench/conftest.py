"""Make the random network pairs importable."""

import sys
from pathlib import Path

FOLDER = str(Path(__file__).resolve().parents[2] / "property")
if FOLDER not in sys.path:
    sys.path.insert(0, FOLDER)
