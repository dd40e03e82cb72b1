"""What is done with a finished run: shared, promoted, predicted with, submitted."""
