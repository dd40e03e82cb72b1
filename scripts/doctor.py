"""Print what `make reproduce-glue` finds on this machine, and which suite it would take.

python scripts/doctor.py [model_dir=FOLDER] [glue_dir=FOLDER] [suite=mini]
"""

import sys

from entry import options, start


def main() -> None:
    from craft.bench.run.provenance import versions
    from craft.bench.sweep.suite import choose, find, hub_answers

    given = options(sys.argv[1:], suite=None, model_dir=None, glue_dir=None)
    for package, version in versions().items():
        print(f"{package:24}{version or 'not installed'}")
    findings = find(given["model_dir"], given["glue_dir"], hub_answers())
    print("\n".join(findings.lines()))
    suite, reason = choose(findings, given["suite"])
    print(f"{'suite':24}{suite}: {reason}")


if __name__ == "__main__":
    start(main)
