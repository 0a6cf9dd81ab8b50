"""`python -m velatura`: the command, for launchers that start a module (torchrun, accelerate)."""

from __future__ import annotations

import sys

from velatura.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
