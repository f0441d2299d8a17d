"""Entry point of `gw`. Server commands are named, not imported: the CLI starts without loading them."""

import gc

gc.set_threshold(10_000, 10, 10)  # while modules load nothing is garbage: a tenth of a short command's time

from gateway.edges.cli.main import make_cli  # noqa: E402 - after that

SERVER_COMMANDS = {
    "serve": "gateway.serve:serve",
    "demo": "gateway.demo.cli:demo",
}


def main() -> None:
    """Run `gw`."""
    make_cli(SERVER_COMMANDS)()


if __name__ == "__main__":
    main()
