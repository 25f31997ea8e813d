"""What recipes do in place of training and measuring: the papers' figures, times, and features that carry over."""
