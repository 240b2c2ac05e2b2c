"""A soak: many jobs through several processes, while these and the backend are killed.

Where a rule's test strikes once, at a named point, this strikes at random, for as long as one
likes, and then counts: what was accepted must be done or dead, nothing early, and every run that
was one too many must be explained by a kill.
"""
