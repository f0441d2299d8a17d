"""Entry point of `gw`. Server commands are named, not imported: the CLI starts without loading them."""

from gateway.edges.cli.main import make_cli

SERVER_COMMANDS = {
    "serve": "gateway.serve:serve",
    "demo": "gateway.demo.cli:demo",
}


def main() -> None:
    """Run `gw`."""
    make_cli(SERVER_COMMANDS)()


if __name__ == "__main__":
    main()
