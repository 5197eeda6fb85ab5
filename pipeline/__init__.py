"""AI pipelines: what they select, what they compute, and the plain results they return."""
