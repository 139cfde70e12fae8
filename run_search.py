#!/usr/bin/env python3
"""The door: `python run_search.py OPTIONS` is `nas search OPTIONS`."""

import sys

from nas.cli import main

if __name__ == "__main__":
    sys.exit(main(["search", *sys.argv[1:]]))
