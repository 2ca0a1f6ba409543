"""``python -m anybroker.cli``."""

import sys

from . import main

sys.exit(main())
