"""`craft train` from a checkout: `python scripts/train.py --help`."""

from craft.bench.cli.main import main

if __name__ == "__main__":
    main("train", "python scripts/train.py")
