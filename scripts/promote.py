"""`craft promote` from a checkout: `python scripts/promote.py --help`."""

from craft.bench.cli.main import main

if __name__ == "__main__":
    main("promote", "python scripts/promote.py")
