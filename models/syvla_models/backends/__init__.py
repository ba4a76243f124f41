"""What computes an expert's chunks: torch itself, or a compiled graph of it, behind one protocol."""
