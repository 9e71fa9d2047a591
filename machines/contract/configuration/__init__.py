"""What a machine's configuration may be: every setting of .nspawn(5) and of its unit as one table, read and written
losslessly, validated and compared with what is in force.
"""
