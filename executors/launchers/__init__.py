"""Who starts the workers of a pool, watches them and lets them go: the port, what stands behind it, and the loop above it."""
