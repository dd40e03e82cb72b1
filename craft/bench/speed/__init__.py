"""Speed and memory beside what a user would take instead."""
