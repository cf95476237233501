#!/usr/bin/env python3
"""SCTP peers of the test cluster: libusrsctp, a whole SCTP in user space over raw sockets, since kernels often have none.

    sctp.py serve NAME PORT ADDRESS...   listens on each address; answers each message with NAME, whom it saw, how much came
    sctp.py ask HOST PORT [SIZE]         prints the answer, with `kept` or `moved` for the port that we were seen with; `refused` (ICMP),
                                         `aborted` or `silence` where there is none. PATIENCE in the environment: seconds

Whoever asks looks at every packet that comes: a wrong CRC32c fails the question, whatever the answer was.
"""
import ctypes
import os
import select
import socket
import struct
import sys
import threading
import time

SCTP = 132
SOL_IP, SOL_IPV6 = 0, 41
lib = None


def load():
    global lib
    lib = ctypes.CDLL("libusrsctp.so.2", use_errno=True)
    lib.usrsctp_socket.restype = ctypes.c_void_p
    lib.usrsctp_accept.restype = ctypes.c_void_p
    lib.usrsctp_sendv.restype = ctypes.c_ssize_t
    lib.usrsctp_recvv.restype = ctypes.c_ssize_t
    # No UDP port: packets are IP's own, and the socket is a raw one.
    lib.usrsctp_init(ctypes.c_uint16(0), None, None)
    # Every process of a host sees all of its packets, and is not to abort others' associations.
    lib.usrsctp_sysctl_set_sctp_blackhole(ctypes.c_uint32(2))


def wire(address, port):
    """A socket address as C has it."""
    if ":" in address:
        return struct.pack("=H", socket.AF_INET6) + struct.pack("!HI", port, 0) + socket.inet_pton(socket.AF_INET6, address) + b"\0\0\0\0"
    return struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_pton(socket.AF_INET, address) + bytes(8)


def text(raw):
    if struct.unpack_from("=H", raw)[0] == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, raw[4:8]), struct.unpack_from("!H", raw, 2)[0]
    return socket.inet_ntop(socket.AF_INET6, raw[8:24]), struct.unpack_from("!H", raw, 2)[0]


def failed(what):
    number = ctypes.get_errno()
    raise OSError(number, f"{what}: {os.strerror(number)}")


def new_socket(address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    it = lib.usrsctp_socket(family, socket.SOCK_STREAM, SCTP, None, None, 0, None)
    return ctypes.c_void_p(it) if it else failed("usrsctp_socket")


def send(it, data):
    done = 0
    while done < len(data):
        # A message of 8 KiB at a time: one is several chunks and packets.
        part = data[done:done + 8192]
        if lib.usrsctp_sendv(it, part, ctypes.c_size_t(len(part)), None, 0, None, 0, 0, 0) < 0:
            failed("usrsctp_sendv")
        done += len(part)


def receive(it):
    """What has come, and from whom; nothing at the end."""
    data = ctypes.create_string_buffer(65536)
    who, long = ctypes.create_string_buffer(128), ctypes.c_uint32(128)
    info, info_long, kind, flags = ctypes.create_string_buffer(256), ctypes.c_uint32(256), ctypes.c_uint(0), ctypes.c_int(0)
    count = lib.usrsctp_recvv(it, data, ctypes.c_size_t(len(data)), who, ctypes.byref(long), info, ctypes.byref(info_long),
                              ctypes.byref(kind), ctypes.byref(flags))
    if count < 0:
        failed("usrsctp_recvv")
    return data.raw[:count], who.raw


# ------------------------------------------------------------------------------------------- who answers

def answer(it, name):
    try:
        head, who = receive(it)
        # The first word of a question says how long it is.
        while head and len(head) < int(head.split()[0]):
            part, who = receive(it)
            head += part
        address, port = text(who)
        send(it, f"{name} {address} {port} {len(head)}\n".encode())
        while receive(it)[0]:
            pass
    except (OSError, ValueError, IndexError):
        pass
    lib.usrsctp_close(it)


def listen(name, port, address):
    it = new_socket(address)
    # Bound to one address: an association that lists others has a second way, past every translation.
    where = wire(address, port)
    if lib.usrsctp_bind(it, where, len(where)) or lib.usrsctp_listen(it, 16):
        failed(f"{address} port {port}")
    while True:
        one = lib.usrsctp_accept(it, None, None)
        if one:
            threading.Thread(target=answer, args=(ctypes.c_void_p(one), name), daemon=True).start()


def serve(name, port, addresses):
    load()
    threads = [threading.Thread(target=listen, args=(name, port, address)) for address in addresses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# ------------------------------------------------------------------------------------------- who asks

def crc_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


TABLE = crc_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


assert crc32c(b"123456789") == 0xE3069283


class Watch:
    """Every SCTP packet and ICMP error that comes to this host, beside whoever else gets it."""

    def __init__(self, six):
        self.six = six
        family = socket.AF_INET6 if six else socket.AF_INET
        self.packets = socket.socket(family, socket.SOCK_RAW, SCTP)
        self.errors = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP)
        self.seen, self.wrong, self.refused = 0, 0, False

    def look(self):
        for it in select.select([self.packets, self.errors], [], [], 0)[0]:
            data = it.recv(65536)
            if not self.six:
                data = data[4 * (data[0] & 15):]
            if it is self.packets:
                self.seen += 1
                body = data[:8] + bytes(4) + data[12:]
                self.wrong += crc32c(body) != struct.unpack_from("<I", data, 8)[0]
            elif not self.six:
                # Destination unreachable, port, about an SCTP packet.
                self.refused |= data[:2] == b"\x03\x03" and data[8 + 9] == SCTP
            else:
                self.refused |= data[:2] == b"\x01\x04" and data[8 + 6] == SCTP


def source(host, port):
    """The address that the kernel would ask from."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as it:
        it.connect((host, port))
        return it.getsockname()[0]


def local_port(it):
    addresses = ctypes.c_void_p()
    if lib.usrsctp_getladdrs(it, ctypes.c_uint32(0), ctypes.byref(addresses)) < 1:
        failed("usrsctp_getladdrs")
    return text(ctypes.string_at(addresses.value, 28))[1]


def ask(host, port, size):
    load()
    watch = Watch(":" in host)
    it = new_socket(host)
    here = wire(source(host, port), 0)
    if lib.usrsctp_bind(it, here, len(here)):
        failed("bind")
    result = []

    def talk():
        there = wire(host, port)
        if lib.usrsctp_connect(it, there, len(there)):
            result.append("aborted")
            return
        try:
            send(it, f"{size} ".encode().ljust(size, b"?"))
            said = receive(it)[0].decode().split()
            # NAME ADDRESS PORT COUNT
            if len(said) == 4:
                said[2] = "kept" if int(said[2]) == local_port(it) else "moved"
            result.append(" ".join(said) or "closed")
            # SHUTDOWN, and whatever the other side says to it.
            lib.usrsctp_shutdown(it, socket.SHUT_WR)
            receive(it)
        except OSError as why:
            result.append(str(why))

    thread = threading.Thread(target=talk, daemon=True)
    thread.start()
    deadline = time.monotonic() + float(os.environ.get("PATIENCE", "2"))
    while thread.is_alive() and time.monotonic() < deadline and not (watch.refused and not result):
        thread.join(0.005)
        watch.look()
    watch.look()
    if watch.wrong:
        return f"{watch.wrong} of {watch.seen} packets with a wrong checksum"
    if result:
        # An answer without the end of the association is no whole one.
        return result[0] if not thread.is_alive() else f"{result[0]}, and no end"
    return "refused" if watch.refused else "silence"


if __name__ == "__main__":
    try:
        if sys.argv[1] == "serve":
            serve(sys.argv[2], int(sys.argv[3]), sys.argv[4:])
        else:
            print(ask(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else 64))
    except OSError as why:
        print(why, file=sys.stderr)
        os._exit(1)
    sys.stdout.flush()
    # The library's threads have no end of their own.
    os._exit(0)
