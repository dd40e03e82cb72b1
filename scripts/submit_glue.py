"""`craft submit` from a checkout: `python scripts/submit_glue.py --help`."""

from craft.bench.cli.main import main

if __name__ == "__main__":
    main("submit", "python scripts/submit_glue.py")
