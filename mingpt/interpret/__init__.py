"""Look inside a model: hooks, heads, circuits, scores, edits."""
