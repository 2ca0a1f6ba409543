"""What adapters and stores may share with the core and with each other."""
