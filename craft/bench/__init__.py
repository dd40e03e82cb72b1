"""Speed and memory beside what a user would take instead; `scripts/bench.py` runs it."""
