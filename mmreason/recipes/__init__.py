"""Published recipes: listing them, and running each small. The files are in configs/recipes/."""
