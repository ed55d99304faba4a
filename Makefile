# Targets for people and for CI. `make` alone lists them.
