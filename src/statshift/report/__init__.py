"""From runs to one self-contained page, and to tables."""
