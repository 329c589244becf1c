"""Pictures of a run: one module per figure, each drawing on axes that it is given.

Only `fl.output.report` imports this package, and only when it draws, because matplotlib takes a second to load.
"""
