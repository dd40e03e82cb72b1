"""An encoder from a folder, a fresh head and a method on it."""
