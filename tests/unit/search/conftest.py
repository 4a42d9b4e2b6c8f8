"""Make the shared problems and random network pairs importable, in worker processes too."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
for folder in (str(HERE), str(HERE.parents[1] / "property")):
    if folder not in sys.path:
        sys.path.insert(0, folder)
