"""Package managers, one kind of system each: apt, dnf, pacman, zypper."""
