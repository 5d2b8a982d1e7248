"""`python -m serfmp`: the command line, and nothing else."""

import sys

from serfmp.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
