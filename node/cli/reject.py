"""``pacs-ai-node reject``: a result that the gate refused never leaves."""

from node.cli._decide import decision

command = decision(
    "reject",
    "Say that what the gate refused of STUDY, or of --job, is wrong: it never leaves, and its alarm ends.",
    "rejected",
    "rejected: it never leaves",
)
