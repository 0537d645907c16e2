from __future__ import annotations

import sys
from pathlib import Path

# The examples are not installed with the package: they are imported from the checkout. At the end of the path,
# so that the package itself is still the installed one.
sys.path.append(str(Path(__file__).parents[2]))
