"""What people see in a real Chromium, of one panel with a real host."""
