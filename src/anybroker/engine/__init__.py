"""What runs between a Bus and an adapter: the way out, the way in, and what both keep in order."""
