"""Every setting of a run: declared once, resolved and checked before anything is loaded."""
