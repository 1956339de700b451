"""From run records to tables and figures; reads, never trains, never imports torch."""
