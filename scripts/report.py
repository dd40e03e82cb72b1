"""`craft report` from a checkout: `python scripts/report.py --help`."""

from craft.bench.cli.main import main

if __name__ == "__main__":
    main("report", "python scripts/report.py")
