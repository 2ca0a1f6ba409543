"""Fuzzing: generated messages against everything that reads outside data. See ``docs/fuzzing.md``."""
