"""One run: its identity, folder, record and what it leaves."""
