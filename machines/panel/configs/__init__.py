"""A machine's configuration before it is applied and after: drafts, validation, diffs, presets and their rollouts, drift,
limits set outside the panel. Rules and queries; forms and pages call them.
"""
