"""A backend of the demo: says its name over HTTP and UDP, and serves one file.

backend.py NAME HTTP-PORT UDP-PORT FILE

Listens on all IPv4 and IPv6 addresses of its namespace. GET / answers the name, GET /file the file;
each UDP datagram is answered with the name.
"""

import http.server
import shutil
import socket
import sys
import threading


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/file":
            with open(path, "rb") as file:
                self.send_response(200)
                self.end_headers()
                shutil.copyfileobj(file, self.wfile)
        else:
            body = f"{name}\n".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    # One socket for both families: IPv4 comes as ::ffff:a.b.c.d.
    address_family = socket.AF_INET6
    daemon_threads = True


def echo(sock):
    while True:
        _, client = sock.recvfrom(2048)
        sock.sendto(f"{name}\n".encode(), client)


name, http_port, udp_port, path = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
udp.bind(("::", udp_port))
threading.Thread(target=echo, args=(udp,), daemon=True).start()
Server(("::", http_port), Handler).serve_forever()
