"""A read-only S3 on loopback over a folder: GET with ranges, HEAD, ListObjectsV2. The first part of a path is the bucket.

For benches/data_streaming.py. It sends files with sendfile and so costs next to nothing itself; a general mock reads the whole
object for every range of it (62 ms for 64 KiB of 32 MiB), which measures the mock. No signature is checked.

    read_only_s3.py FOLDER        prints the port it listens on
"""

import os
import re
import sys
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.sax.saxutils import escape

ROOT = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else "."
STAMP = "2026-01-01T00:00:00.000Z"
DATE = "Thu, 01 Jan 2026 00:00:00 GMT"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        url = urllib.parse.urlparse(self.path)
        query = urllib.parse.parse_qs(url.query, keep_blank_values=True)
        path = os.path.normpath(ROOT + urllib.parse.unquote(url.path))
        if not path.startswith(ROOT):
            return self.answer(403, b"")
        bucket, _, key = urllib.parse.unquote(url.path).lstrip("/").partition("/")
        if not key:
            return self.list(bucket, query)
        if not os.path.isfile(path):
            return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        self.file(path)

    def file(self, path):
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            begin, end = 0, size
            asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
            if asked and asked[1]:
                begin, end = int(asked[1]), min(int(asked[2]) + 1, size) if asked[2] else size
            elif asked and asked[2]:
                begin = max(size - int(asked[2]), 0)
            if begin >= end and size:
                return self.answer(416, b"")
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(end - begin))
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", f'"{size:032x}"')
            self.send_header("Last-Modified", DATE)
            if asked:
                self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
            self.end_headers()
            self.wfile.flush()
            while self.command == "GET" and begin < end:
                sent = os.sendfile(self.connection.fileno(), file.fileno(), begin, end - begin)
                if sent == 0:
                    break
                begin += sent

    def list(self, bucket, query):
        prefix = query.get("prefix", [""])[0]
        delimiter = query.get("delimiter", [""])[0]
        objects, folders = [], set()
        for folder, _, names in os.walk(os.path.join(ROOT, bucket)):
            for name in names:
                path = os.path.join(folder, name)
                key = os.path.relpath(path, os.path.join(ROOT, bucket))
                if not key.startswith(prefix):
                    continue
                head, found, _ = key[len(prefix):].partition(delimiter) if delimiter else (key, "", "")
                if found:
                    folders.add(prefix + head + delimiter)
                else:
                    objects.append((key, os.path.getsize(path)))
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{STAMP}</LastModified><ETag>&quot;{size:032x}&quot;</ETag>"
            f"<Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            for key, size in sorted(objects)
        )
        prefixes = "".join(f"<CommonPrefixes><Prefix>{escape(f)}</Prefix></CommonPrefixes>" for f in sorted(folders))
        body = (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{escape(bucket)}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(objects) + len(folders)}</KeyCount>"
            f"<MaxKeys>1000000</MaxKeys><IsTruncated>false</IsTruncated>{contents}{prefixes}</ListBucketResult>"
        )
        self.answer(200, body.encode())

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass  # a reader that had enough hangs up


if __name__ == "__main__":
    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
