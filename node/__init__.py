"""The node: receives, assembles, routes, works, delivers."""
