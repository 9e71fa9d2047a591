"""`make chaos`: mixed jobs on two real hosts while everything between a click and its effect is killed, again and again.

What is printed is what the panel promises: no job lost, none done twice, none undecided once it is quiet.
"""
