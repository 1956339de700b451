"""From raw files to prepared datasets on disk, and from these to batches."""
