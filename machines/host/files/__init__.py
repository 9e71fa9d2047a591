"""The files that belong to a machine, besides its image: settings file, drop-ins, autostart links, earlier generations;
read losslessly, written only where what they replace was seen.
"""
