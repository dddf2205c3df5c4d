"""`python -m mmlm` is `mmlm`."""

import sys

from mmlm.cli import main

sys.exit(main())
