import socket

import pytest

from gateway.serve import _listening


def test_a_port_that_is_taken_is_told_with_the_settings_that_name_it(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SystemExit) as no, _listening("ssh", "127.0.0.1", port):
            socket.create_server(("127.0.0.1", port)).close()
    assert no.value.code == 1
    said = capsys.readouterr().err
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in said
    assert "ssh.port" in said
