"""Pages by keyset: what is asked for (`request`), in which order, from which place, and the cursor that stands for a place."""
