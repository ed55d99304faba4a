"""Synthetic fleets, what judges plans of them, and who else plans them (docs/benchmarks.md)."""
