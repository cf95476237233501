#!/usr/bin/env python3
"""Servers and clients of the test cluster: whoever asks is told by whom it is answered and as whom it was seen.

    peer.py serve NAME PORT...                HTTP on TCP, one datagram each on UDP ("who and port?": with the ports)
    peer.py ask HOST PORT [SIZE [PATIENCE]]   a datagram; prints the answer, `refused` or `silence`
    peer.py loose HOST PORT SIZE              the same without DF, so that routers may cut it up; prints how much came, too
    peer.py many HOST PORT COUNT [PATIENCE [QUESTION]]   a datagram on each of so many sockets; prints who answers, each once, in order
"""
import selectors
import socket
import sys

BIG = b"x" * (4 << 20)


def seen(address):
    return address[0].removeprefix("::ffff:")


def answer(connection, name, address):
    connection.settimeout(5)
    try:
        request = b""
        while b"\r\n\r\n" not in request:
            part = connection.recv(65536)
            if not part:
                return
            request += part
        head, _, body = request.partition(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
            if line.lower().startswith(b"expect:"):
                connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        received = len(body)
        while received < length:
            received += len(connection.recv(1 << 20)) or length
        reply = BIG if b" /big" in head else f"{name} {seen(address)} {received}\n".encode()
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(reply) + reply)
    except OSError:
        pass


def serve(name, ports):
    import threading
    ready = selectors.DefaultSelector()
    for port in ports:
        stream = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)
        ready.register(stream, selectors.EVENT_READ, "stream")
        datagram = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        datagram.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # A host of several addresses answers from the one that was asked.
        datagram.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        datagram.bind(("::", port))
        ready.register(datagram, selectors.EVENT_READ, "datagram")
    while True:
        for key, _ in ready.select():
            if key.data == "datagram":
                data, control, _, address = key.fileobj.recvmsg(65536, 256)
                reply = f"{name} {seen(address)} {len(data)}\n".encode()
                if data == b"who and port?":
                    reply = f"{name}:{key.fileobj.getsockname()[1]} {seen(address)} {address[1]}\n".encode()
                back = [item for item in control if item[:2] == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO)]
                key.fileobj.sendmsg([reply], back, 0, address)
                continue
            connection, address = key.fileobj.accept()

            def work(connection=connection, address=address):
                answer(connection, name, address)
                connection.close()
            threading.Thread(target=work, daemon=True).start()


def ask(host, port, size, patience, loose=False):
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as it:
        it.settimeout(patience)
        if loose:
            # IP_MTU_DISCOVER, IP_PMTUDISC_DONT
            it.setsockopt(socket.IPPROTO_IP, 10, 0)
        it.connect((host, port))
        try:
            it.send(b"?" * size)
            return it.recv(65536).decode().strip()
        except ConnectionRefusedError:
            return "refused"
        except TimeoutError:
            return "silence"


def many(host, port, count, patience, question):
    """From several ports, so that each is a flow of its own."""
    sockets = [socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
    names = set()
    for it in sockets:
        it.connect((host, port))
        it.send(question.encode())
    for it in sockets:
        it.settimeout(patience)
        try:
            names.add(it.recv(65536).decode().split()[0])
        except ConnectionRefusedError:
            names.add("refused")
        except TimeoutError:
            names.add("silence")
            # The others have waited as long.
            patience = 0.01
    return " ".join(sorted(names))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], [int(port) for port in sys.argv[3:]])
    elif sys.argv[1] == "loose":
        print(ask(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), 2.0, loose=True))
    elif sys.argv[1] == "many":
        host, port, count, patience, question = sys.argv[2:] + ["2", "?"][len(sys.argv) - 5:]
        print(many(host, int(port), int(count), float(patience), question))
    else:
        host, port, size, patience = sys.argv[2:] + ["16", "2"][len(sys.argv) - 4:]
        print(ask(host, int(port), int(size), float(patience)))
