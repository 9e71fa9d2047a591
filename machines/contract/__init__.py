"""Words both sides agree on. No Django, no Celery: a host and the panel import the same files."""
