"""GLUE: its nine tasks, where they come from, their metrics and their batches."""
