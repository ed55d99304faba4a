"""What runs inside an engine's own process, from the engine's environment: the standard library and numpy, nothing else of ours.

The launcher puts this folder on the engine's PYTHONPATH, so that `batchsched_drafts` is found there and nothing else is.
"""
