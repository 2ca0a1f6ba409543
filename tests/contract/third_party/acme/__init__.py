"""An adapter that somebody else wrote, for a log in memory: the suite runs on it by the documented command."""
