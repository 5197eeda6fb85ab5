"""``pacs-ai-node release``: let a result go that the gate refused, after a person has looked at it."""

from node.cli._decide import decision

command = decision(
    "release",
    "Let go what the gate refused of STUDY, or of --job, after looking at it. Some faults never leave: `show` says which.",
    "released",
    "released: it is sent now",
)
