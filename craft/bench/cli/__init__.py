"""The commands of `craft`, one file each."""
