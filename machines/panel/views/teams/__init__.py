"""Pages of teams: members, hosts shared to them, whose machines are, and who may do what and why."""
