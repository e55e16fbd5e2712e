"""``python -m headland_edge``: the same as ``headland-edge``."""

import sys

from headland_edge.cli import main

sys.exit(main())
