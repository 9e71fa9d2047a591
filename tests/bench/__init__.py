"""Speed, side by side with the plain command that the panel wraps. `make bench`, `make bench ONLY=list_page`.

Every figure is a ratio of two medians taken in turn in one run on one machine; nothing here judges or fails.
"""
