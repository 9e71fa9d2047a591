"""What people may do with what belongs to a team: one authorize(), its members, who a machine belongs to, and how much of a
host a team may use.
"""
