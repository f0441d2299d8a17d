"""Run by the interpreter that has scim2-tester: `by_scim_tester.py URL`; the token is on standard input."""

import sys

from httpx2 import Client
from scim2_client.engines.httpx2 import SyncSCIMClient
from scim2_tester import check_server

with Client(base_url=sys.argv[1], headers={"authorization": f"Bearer {sys.stdin.readline().strip()}"}) as http:
    client = SyncSCIMClient(http)
    client.discover()
    results = check_server(client)
for result in results:
    print(result.status.name, result.title, "-", (result.reason or "").replace("\n", " ")[:1500])
