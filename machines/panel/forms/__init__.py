"""What people type, checked on the field where it was typed: model forms and formsets. Rules of the domain are called, not
held.
"""
