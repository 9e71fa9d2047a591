"""Hash a password the way /etc/shadow wants it. The clear text never leaves the request that brought it.

Facts: Python 3.13 has no crypt module any more. libxcrypt is on every Debian, Ubuntu, Fedora and Arch (libcrypt.so.1, or .2
without the old interface); its crypt_rn() and crypt_gensalt_rn() are safe in threads, crypt() is not. yescrypt is known to the
login of every Debian since 11; the salt function draws its own random bytes when given none.
"""

import ctypes
from functools import cache

from machines.contract.problems import BadValue, Problem

LONGEST = 200
_LIBRARIES = ("libcrypt.so.1", "libcrypt.so.2")
_SALT_SIZE = 192  # CRYPT_GENSALT_OUTPUT_SIZE
_WORK_SIZE = 32768  # sizeof(struct crypt_data)


def hashed(password: str) -> str:
    """The yescrypt hash of a password, with a salt of its own. Raises BadValue, or Problem without libxcrypt."""
    if len(password) > LONGEST or any(not c.isprintable() for c in password):
        raise BadValue(
            f"A password has at most {LONGEST} characters and no line breaks or other control characters.",
            field="root_password",
        )
    return crypt(password, _salt())


def crypt(password: str, setting: str) -> str:
    """crypt(3): the hash of a password by a setting, or by an earlier hash to compare with. Raises Problem."""
    library, work = _library(), ctypes.create_string_buffer(_WORK_SIZE)
    found = library.crypt_rn(password.encode(), setting.encode(), work, ctypes.sizeof(work))
    if not found:
        raise Problem("The panel's libcrypt does not support this hash.", code="no-crypt")
    return str(found.decode())


def _salt() -> str:
    salt = ctypes.create_string_buffer(_SALT_SIZE)
    if not _library().crypt_gensalt_rn(b"$y$", 0, None, 0, salt, ctypes.sizeof(salt)):
        raise Problem("The panel's libcrypt does not support yescrypt.", code="no-crypt")
    return salt.value.decode()


@cache
def _library() -> ctypes.CDLL:
    for name in _LIBRARIES:
        try:
            library = ctypes.CDLL(name)
            library.crypt_rn.restype = library.crypt_gensalt_rn.restype = ctypes.c_char_p
            library.crypt_rn.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int]
            library.crypt_gensalt_rn.argtypes = [
                ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_int,
            ]  # fmt: skip
        except (OSError, AttributeError):
            continue
        return library
    raise Problem(
        "The panel cannot hash passwords here: libxcrypt is missing.",
        hint="Install libcrypt1 on the panel's machine, or build with an SSH key instead.",
        code="no-crypt",
    )
