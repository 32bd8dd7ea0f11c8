"""Import this before fastgan: where none is installed, a benchmark measures that of this checkout."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if importlib.util.find_spec("fastgan") is None:
    sys.path.append(str(ROOT))
