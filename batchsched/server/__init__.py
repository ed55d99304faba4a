"""The HTTP server: OpenAI's surface, our extensions, the workers' surface. `process.serve` runs it."""
