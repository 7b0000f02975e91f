"""azure-core with its retries, and its poller where the answer is a place to ask at."""

import json
import sys

from azure.core import PipelineClient
from azure.core.exceptions import AzureError
from azure.core.pipeline.policies import RequestIdPolicy, RetryPolicy
from azure.core.polling import LROPoller
from azure.core.polling.base_polling import LROBasePolling, LocationPolling
from azure.core.rest import HttpRequest

base, options = sys.argv[1], json.loads(sys.argv[2])
more = {"retry_on_methods": ["POST"]} if options["may_repeat_post"] else {}
client = PipelineClient(base, policies=[RequestIdPolicy(), RetryPolicy(retry_backoff_factor=0.1)])
headers = {"authorization": options["caller"], **options["headers"]}
request = HttpRequest("POST", base + options["path"], headers=headers, json={"amount": 10})
try:
    begun = client.send_request(request, _return_pipeline_response=True, **more)
    answer = begun.http_response
    seen = {"status": answer.status_code, "said": answer.headers["idempotency-status"], "text": answer.text()}
    if answer.status_code == 202:
        polling = LROBasePolling(timeout=0.1, lro_algorithms=[LocationPolling()])
        poller = LROPoller(client, begun, lambda response: response.http_response.status_code, polling)
        seen = {**seen, "place": answer.headers["location"], "ended": poller.result(timeout=60)}
except AzureError as error:
    seen = {"error": type(error).__name__, "message": str(error)}
print(json.dumps(seen))
