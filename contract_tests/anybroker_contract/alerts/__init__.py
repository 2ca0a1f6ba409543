"""The alert rules under a real Prometheus: services that misbehave on purpose, and what fires."""
