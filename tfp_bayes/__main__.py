"""The entry point of `python -m tfp_bayes`, the command line."""

import sys

from tfp_bayes.cli import main

if __name__ == "__main__":
    sys.exit(main())
