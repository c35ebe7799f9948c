"""A local stand-in for Hugging Face's hub: repositories of files, as its libraries ask for them."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c" * 40


@contextmanager
def hub_stub(repositories):
    """Its address and the paths that were asked, of repositories {"datasets/owner/name" or "models/…": files}."""
    asked = []

    def listed(path, content):
        return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            path = unquote(urlsplit(self.path).path).strip("/")
            asked.append(path)
            api = path.startswith("api/")
            path = path.removeprefix("api/")
            if not api and not path.startswith("datasets/"):
                path = f"models/{path}"
            kind, owner, name, *rest = [*path.split("/"), "", "", ""]
            files = repositories.get(f"{kind}/{owner}/{name}")
            what, revision, *inside = [part for part in rest if part] + ["", ""]
            inside = "/".join(part for part in inside if part)
            if files is None:
                self.say(404, b"", {"X-Error-Code": "RepoNotFound"})
            elif revision not in ("", "main", COMMIT):
                self.say(404, b"", {"X-Error-Code": "RevisionNotFound"})
            elif what == "resolve":
                self.file(files.get(inside))
            elif what == "tree":
                self.json([listed(file, files[file]) for file in files if file.startswith(inside)])
            elif what == "paths-info":
                wanted = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]
                self.json([listed(file, files[file]) for file in wanted if file in files])
            else:
                siblings = [{"rfilename": file} for file in files]
                self.json({"id": f"{owner}/{name}", "sha": COMMIT, "siblings": siblings, "tags": [], "private": False})

        do_GET = do_HEAD = do_POST = answer

        def file(self, content):
            if content is None:
                self.say(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            else:
                self.say(200, content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT})

        def json(self, value):
            self.say(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def say(self, code, content, headers):
            self.send_response(code)
            for name, value in (headers | {"Content-Length": str(len(content))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
