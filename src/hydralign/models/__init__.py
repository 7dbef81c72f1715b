"""Networks: tokenizers, loading, heads, adapters, and the four roles that stages see."""
