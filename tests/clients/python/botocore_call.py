"""botocore with its retries: it signs each try anew, and fills in the token of an API that knows one."""

import json
import sys

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

base, options = sys.argv[1], json.loads(sys.argv[2])
config = Config(retries={"mode": "standard", "max_attempts": 3}, proxies={})
session = botocore.session.get_session()
client = session.create_client(
    options["service"],
    region_name="eu-central-1",
    endpoint_url=base,
    aws_access_key_id=options["caller"].removeprefix("Bearer "),
    aws_secret_access_key="wonderland",
    config=config,
)
call = getattr(client, options["operation"])
try:
    answer = call(**options["input"])["ResponseMetadata"]
    said = answer["HTTPHeaders"]["idempotency-status"]
    seen = {"status": answer["HTTPStatusCode"], "said": said, "retries": answer["RetryAttempts"]}
except (BotoCoreError, ClientError) as error:
    seen = {"error": type(error).__name__, "message": str(error)}
print(json.dumps(seen))
