"""What a page shows, as ready values: a template decides nothing."""
