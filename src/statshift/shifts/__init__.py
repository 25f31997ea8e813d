"""What happens to images before a model sees them."""
