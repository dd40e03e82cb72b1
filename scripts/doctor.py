"""`craft doctor` from a checkout: `python scripts/doctor.py --help`."""

from craft.bench.cli.main import main

if __name__ == "__main__":
    main("doctor", "python scripts/doctor.py")
