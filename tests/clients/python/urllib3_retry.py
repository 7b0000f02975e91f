"""urllib3 with its Retry: as it comes, or told that POST may be repeated and after which statuses."""

import json
import sys

import urllib3

base, options = sys.argv[1], json.loads(sys.argv[2])
told = {"allowed_methods": ["POST"], "status_forcelist": [409, 429, 502, 503, 504], "backoff_factor": 0.1}
retries = urllib3.Retry(total=3, **(told if options["may_repeat_post"] else {}))
headers = {"authorization": options["caller"], "idempotency-key": "order-1"}
timeout = options.get("timeout_ms", 80_000) / 1000
with urllib3.PoolManager(retries=retries, timeout=timeout) as pool:
    try:
        answer = pool.request("POST", base + options["path"], json={"amount": 4200}, headers=headers)
        seen = {"status": answer.status, "said": answer.headers["idempotency-status"], "id": answer.json()["id"]}
    except urllib3.exceptions.HTTPError as error:
        seen = {"error": type(error).__name__, "message": str(error)}
print(json.dumps(seen))
