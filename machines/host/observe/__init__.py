"""What is: the inventory of machines, their units, the settings that are in force, the host's own facts, and the watch that
reports each change. Changes nothing.
"""
