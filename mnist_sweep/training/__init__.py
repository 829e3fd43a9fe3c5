"""Images, networks and their training, with Lightning and torch."""
