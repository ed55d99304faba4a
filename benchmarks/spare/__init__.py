"""Benchmark of spare online capacity: online users and offline work on one vLLM server, and a simulator of such a server."""
