"""aiohttp on a connection that it uses again: there it repeats idempotent methods once, in silence."""

import asyncio
import json
import sys

import aiohttp


async def main(base, options):
    headers = {"authorization": options["caller"], "idempotency-key": "order-1"}
    async with aiohttp.ClientSession(base, headers=headers) as session:
        async with session.get("/aiohttp") as warm:
            await warm.read()
        try:
            async with session.request(options["method"], options["path"], json={"amount": 4200}) as answer:
                made = await answer.json()
                return {"status": answer.status, "said": answer.headers["idempotency-status"], "id": made["id"]}
        except aiohttp.ClientError as error:
            return {"error": type(error).__name__, "message": str(error)}


print(json.dumps(asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))))
