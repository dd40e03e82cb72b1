"""The study of results/STUDY.md: its plan, its verdicts, its tables."""
