"""The parts of `scripts/pretrain_mini.py`."""
