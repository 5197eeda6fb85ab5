"""`python -m node` is `pacs-ai-node`."""

from node.cli import main

main()
