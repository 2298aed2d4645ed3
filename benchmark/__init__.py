"""Speed and memory, measured by a command against a stated baseline, as ratios."""
