"""What pages of teams show: their people, what they hold and may use, and machines that are nobody’s."""
