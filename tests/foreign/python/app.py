# A handler of wasi:http in Python, as componentize-py's own example has it: the standard library, one answer a request.
import json
import os
import sys
import time

from componentize_py_types import Ok
from wit_world import exports
from wit_world.imports.types import Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam

began = time.monotonic()


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, out: ResponseOutparam):
        path = request.path_with_query() or "/"
        if path == "/boom":
            raise ValueError("asked to fail")
        body = json.dumps({
            "hello": "from Python",
            "version": sys.version.split()[0],
            "path": path,
            "name": os.environ.get("NAME"),
            "time": time.time(),
        }).encode()
        print(f"GET {path}", file=sys.stderr)
        response = OutgoingResponse(Fields.from_list([("content-type", b"application/json")]))
        stream_of = response.body()
        ResponseOutparam.set(out, Ok(response))
        with stream_of.write() as stream:
            stream.blocking_write_and_flush(body)
        OutgoingBody.finish(stream_of, None)
