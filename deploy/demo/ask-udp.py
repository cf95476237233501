"""Asks a UDP service COUNT times, each time from a new port, and prints the answers.

ask-udp.py ADDRESS PORT COUNT
"""

import socket
import sys

address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
for _ in range(count):
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        sock.sendto(b"who are you?", (address, port))
        print(sock.recvfrom(2048)[0].decode(), end="")
