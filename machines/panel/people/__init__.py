"""The people of the panel beyond their password: second factors, sessions, links that let somebody in once, and who is
an administrator.
"""
