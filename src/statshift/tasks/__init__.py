"""Tasks: what labels are, what is kept of logits, and what a row's score, intervals and tests are."""
