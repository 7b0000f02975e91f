"""Stripe's library with its retries: it draws the key of the operation and repeats by itself."""

import json
import sys

import stripe

base, options = sys.argv[1], json.loads(sys.argv[2])
timeout = options.get("timeout_ms", 80_000) / 1000
client = stripe.StripeClient(
    options["caller"].removeprefix("Bearer "),
    base_addresses={"api": base},
    http_client=stripe.RequestsClient(timeout=timeout),
    max_network_retries=2,
)
key = {"idempotency_key": options["key"]} if "key" in options else {}
resource = getattr(client.v1, options["resource"])
try:
    made = resource.create({"amount": options.get("amount", 4200), "currency": "eur"}, key)
    answer = made.last_response
    seen = {"status": answer.code, "said": answer.headers["idempotency-status"], "id": made.id}
except stripe.StripeError as error:
    seen = {"status": error.http_status, "error": type(error).__name__, "message": str(error)}
print(json.dumps(seen))
