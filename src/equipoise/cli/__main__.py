"""`python -m equipoise.cli …`: what `accelerate launch -m equipoise.cli …` needs."""

import sys

from equipoise.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
