"""Fuzzing: generated messages against everything that reads what others wrote. See ``docs/fuzzing.md``."""
