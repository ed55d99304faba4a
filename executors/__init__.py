"""What runs beside the GPU: the worker, the engine it drives, the energy meter. Speaks to the server over HTTP only."""
