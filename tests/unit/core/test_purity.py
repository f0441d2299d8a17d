import socket

import pytest

Failed = pytest.fail.Exception


def test_a_pure_test_cannot_open_a_socket() -> None:
    with pytest.raises(Failed, match="socket"):
        socket.socket()
    with pytest.raises(Failed, match="socket"):
        socket.create_connection(("127.0.0.1", 9))
