"""Playing trained policies: whole episodes, films, pruning, other engines."""
