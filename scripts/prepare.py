"""`craft prepare` from a checkout: `python scripts/prepare.py --help`."""

from craft.bench.cli.main import main

if __name__ == "__main__":
    main("prepare", "python scripts/prepare.py")
