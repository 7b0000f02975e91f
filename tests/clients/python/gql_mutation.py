"""gql with its retries: it repeats a mutation in silence, under the key that its transport carries."""

import json
import sys

import requests
from gql import Client, gql
from gql.transport.exceptions import TransportError
from gql.transport.requests import RequestsHTTPTransport

base, options = sys.argv[1], json.loads(sys.argv[2])
headers = {"authorization": options["caller"], **({"idempotency-key": "k"} if options["keyed"] else {})}
transport = RequestsHTTPTransport(url=base + "/graphql", headers=headers, retries=options["retries"], timeout=80)
try:
    paid = Client(transport=transport).execute(gql("mutation { pay(amount: 10) { id } }"))
    seen = {"said": transport.response_headers["idempotency-status"], "id": paid["pay"]["id"]}
except (TransportError, requests.RequestException) as error:
    seen = {"error": type(error).__name__, "message": str(error)}
print(json.dumps(seen))
