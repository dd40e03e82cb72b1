"""`python -m craft.bench COMMAND` is `craft COMMAND`."""

from craft.bench.cli.main import main

if __name__ == "__main__":
    main()
