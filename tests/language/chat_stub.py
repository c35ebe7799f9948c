"""A local chat endpoint that plays back what it is told, by the prompt whose reply is judged."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def chat_stub():
    """Its address, what it plays by prompt (the last one again and again; under None: for every other), and its log.

    A play is what is said, an HTTP status, "sleep" or "broken".
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked = json.loads(body["messages"][0]["content"].splitlines()[-1])
            with lock:
                log.append((self.path, self.headers.get("Authorization"), body, asked))
                plays = script[asked["prompt"] if asked["prompt"] in script else None]
                play = plays.pop(0) if len(plays) > 1 else plays[0]
            if play == "sleep":
                time.sleep(0.4)
                play = "0.9"
            self.send_response(play if isinstance(play, int) else 200)
            self.end_headers()
            said = json.dumps({"choices": [{"message": {"content": play}}]}) if play != "broken" else '{"choices": ['
            self.wfile.write(said.encode())

        def log_message(self, *_):
            pass

    log, script, lock = [], {}, threading.Lock()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", script, log
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
