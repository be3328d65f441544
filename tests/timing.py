"""How strictly tests take time: by default bounds are wide, as machines that run tests are noisy.

``ISOLA_STRICT_TIMING=1`` holds them to what is promised (50 ms for a standstill of the event loop, and so on); run it
on a quiet machine.
"""

from __future__ import annotations

import os

SLACK = 1.0 if os.environ.get("ISOLA_STRICT_TIMING") else 8.0
"""What the bounds of tests are multiplied with."""
