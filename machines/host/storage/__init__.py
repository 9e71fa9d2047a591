"""Where images lie and how they are made and removed as a whole: pools, subvolumes, trees, disk images, packed images,
shifted owners.
"""
