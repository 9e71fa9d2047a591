"""Password hashes, against published vectors and openssl."""

import shutil
import subprocess

import pytest

from machines.contract.problems import BadValue, Problem
from machines.contract.recipes import password_hash
from machines.panel.images.passwords import crypt, hashed

# Ulrich Drepper's "Unix crypt using SHA-256 and SHA-512"
VECTORS = [
    (
        "Hello world!", "$6$saltstring",
        "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1",
    ),
    (
        "This is just a test", "$6$rounds=5000$toolongsaltstring",
        "$6$rounds=5000$toolongsaltstrin$lQ8jolhgVRVhY4b5pZKaysCLi0QBxGoNeKQzQ3glMhwllF7oGDZxUhx1yxdYcz/e1JSbq3y6JMxxl8audkUEm0",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("password", "setting", "expected"), VECTORS)
def test_it_agrees_with_the_published_vectors(password, setting, expected):
    assert crypt(password, setting) == expected


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
@pytest.mark.parametrize("password", ["secret", "пароль", "a b$c", "'; rm -rf /"])
def test_it_agrees_with_openssl(password):
    argv = ["openssl", "passwd", "-6", "-salt", "nspawnpanel", password]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
    assert crypt(password, "$6$nspawnpanel") == said


def test_a_hash_is_yescrypt_salted_anew_and_checks():
    first, second = hashed("secret"), hashed("secret")
    assert first.startswith("$y$")
    assert first != second
    assert crypt("secret", first) == first
    assert crypt("Secret", first) != first
    assert password_hash(first) == first


@pytest.mark.parametrize("password", ["a\nb", "a\0b", "x" * 201])
def test_it_refuses_what_no_login_can_send(password):
    with pytest.raises(BadValue):
        hashed(password)


def test_it_says_when_it_cannot_hash_so():
    with pytest.raises(Problem):
        crypt("secret", "$nonsense$")
