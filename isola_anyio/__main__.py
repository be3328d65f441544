"""Entry point of ``python -m isola_anyio``, which is the command line."""

import sys

from isola_anyio.cli import main

sys.exit(main())
