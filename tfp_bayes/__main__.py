"""Lets `python -m tfp_bayes` be the command line."""

import sys

from tfp_bayes.cli import main

if __name__ == "__main__":
    sys.exit(main())
