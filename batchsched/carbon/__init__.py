"""Energy to grams: embodied and operational carbon, and the arithmetic of the ledger. Pure: plain data in, plain data out."""
