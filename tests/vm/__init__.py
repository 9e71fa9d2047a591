"""A package, so that its virtual machine and panel are for these tests alone and end with the last of them."""
