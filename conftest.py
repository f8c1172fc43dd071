"""Which modules pytest does not import to look for doctests."""

collect_ignore = ["framework/faust"]  # Faust is in an environment of its own: `make .venv/faust.stamp`.
