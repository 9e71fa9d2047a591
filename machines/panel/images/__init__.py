"""What images are made of: recipes and their runs, base images, archives, and the order for a new machine."""
