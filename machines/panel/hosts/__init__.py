"""What the panel knows of a host as a whole: its clock, whether its reports are fresh, epochs on both sides, quarantine,
budgets, tools.
"""
