"""`craft reproduce` from a checkout: `python scripts/reproduce.py --help`."""

from craft.bench.cli.main import main

if __name__ == "__main__":
    main("reproduce", "python scripts/reproduce.py")
