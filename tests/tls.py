"""TLS before a real Redis: certificates made on the spot, and a front that ends TLS and passes bytes on."""

import contextlib
import ipaddress
import selectors
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Certificate:
    """Self-signed, for 127.0.0.1; `file` has the certificate, `key_file` its key."""

    def __init__(self, folder: Path, name: str = "redis") -> None:
        self.file, self.key_file = folder / f"{name}.pem", folder / f"{name}.key"
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
            .sign(key, hashes.SHA256())
        )  # fmt: skip
        self.file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        self.key_file.write_bytes(key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ))  # fmt: skip
        self.pin = sha256(made.public_bytes(serialization.Encoding.DER)).hexdigest()


class Front:
    """`with Front(certificate, port) as front:` takes TLS on `front.port` and speaks to 127.0.0.1:`port` in plain. What clients
    sent in all is in `heard`."""

    def __init__(self, certificate: Certificate, port: int) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate.file, certificate.key_file)
        self._behind = port
        self._listener = socket.create_server(("0.0.0.0", 0))  # sandbox hosts come by another address
        self._listener.settimeout(0.1)
        self.port = self._listener.getsockname()[1]
        self.heard = bytearray()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._accept)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        served = []
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                plain, _ = self._listener.accept()
                served.append(threading.Thread(target=self._serve, args=(plain,)))
                served[-1].start()
        for thread in served:
            thread.join()

    def _serve(self, plain: socket.socket) -> None:
        with contextlib.suppress(OSError), plain:
            plain.settimeout(5)
            with (
                self._context.wrap_socket(plain, server_side=True) as client,
                socket.create_connection(("127.0.0.1", self._behind)) as behind,
            ):
                self._pass_on(client, behind)

    def _pass_on(self, client: ssl.SSLSocket, behind: socket.socket) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ, behind)
            selector.register(behind, selectors.EVENT_READ, client)
            while not self._stop.is_set():
                for key, _ in selector.select(0.1):
                    if not self._move(key.fileobj, key.data, client):  # type: ignore[arg-type]
                        return

    def _move(self, source: socket.socket, to: socket.socket, client: ssl.SSLSocket) -> bool:
        data = source.recv(65536)
        while source is client and client.pending():
            data += client.recv(client.pending())
        if source is client:
            self.heard += data
        to.sendall(data)
        return bool(data)
