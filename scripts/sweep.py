"""`craft sweep` from a checkout: `python scripts/sweep.py --help`."""

from craft.bench.cli.main import main

if __name__ == "__main__":
    main("sweep", "python scripts/sweep.py")
