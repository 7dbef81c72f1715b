"""What scores a response: a reward model, or a rule."""
