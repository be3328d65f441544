"""Let ``python -m isola_anyio`` be the command line."""

import sys

from isola_anyio.cli import main

sys.exit(main())
