"""A job's log: its lines read by number, drawn as HTML, and streamed while they come."""
