"""`craft speed` from a checkout: `python scripts/speed.py --help`."""

from craft.bench.cli.main import main

if __name__ == "__main__":
    main("speed", "python scripts/speed.py")
