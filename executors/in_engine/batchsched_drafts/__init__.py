"""Drafts from another machine, for vLLM's speculative decoding by a class of one's own. Experimental, as vLLM's interface is."""

CLASS = "batchsched_drafts.proposer.Proposer"
"""As vLLM is told of it."""
ADDRESS, KEY, TOLD, ALWAYS = (
    "BATCHSCHED_DRAFTS",
    "BATCHSCHED_DRAFTS_KEY",
    "BATCHSCHED_DRAFTS_TOLD",
    "BATCHSCHED_DRAFTS_ALWAYS",
)
"""What it reads from the engine's environment."""
