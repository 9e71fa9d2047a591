"""Why a machine or a host does not work: facts read from outside, checks over them, and fixes that can be taken back."""
