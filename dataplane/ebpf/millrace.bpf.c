// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//
// Ours or the kernel's: the smallest program that can decide it, run by the driver for every
// frame that a queue of one interface receives.
//
// Decides: redirect to the queue's AF_XDP socket, or XDP_PASS. It never drops and never writes.
// Needs: `settings` and `heartbeat` from the engine (src/steer.rs keeps the layouts in step).
// Leaves to the engine: everything else, validity of headers included.
//
// Cost of a redirected frame: three array lookups (inlined by the verifier), one coarse clock
// read, one map redirect. LPM lookups happen in service-proxy mode alone.
//
// The object is loaded once for each interface, so that a socket's slot in `xsks` is its queue.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// Who owns the interface's addresses: the engine, or the kernel.
#define MODE_ROUTER 0
#define MODE_SERVICE_PROXY 1

#define MAX_VLAN_TAGS 2

#define ICMPV6 58
#define ARP_REQUEST 1
#define ND_NEIGHBOR_SOLICITATION 135
#define ND_NEIGHBOR_ADVERTISEMENT 136
// RFC 4861 §7.1: a packet that was forwarded can't have it.
#define ND_HOP_LIMIT 255

// src/steer/maps.rs writes this as three native 64-bit words.
struct settings {
    __u64 stale_after_ns;
    __u64 mode;
    __u64 mac; // the interface's, first byte at the lowest address, two zero bytes after it
};

// src/steer/maps.rs reads this as four native 64-bit words per CPU.
struct statistics {
    __u64 redirected;
    __u64 passed;  // not ours
    __u64 stale;   // ours, but no worker has beaten lately
    __u64 unbound; // ours, but the queue has no socket
};

struct {
    __uint(type, BPF_MAP_TYPE_XSKMAP);
    __uint(max_entries, 64); // the loader sets the interface's queue count
    __type(key, __u32);
    __type(value, __u32);
} xsks SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct settings);
} settings SEC(".maps");

// CLOCK_MONOTONIC nanoseconds of the engine's last sign of life; 0: none yet.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} heartbeat SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct statistics);
} stats SEC(".maps");

struct prefix4 {
    __u32 length;
    __u8 address[4];
};

struct prefix6 {
    __u32 length;
    __u8 address[16];
};

// Destinations that the engine answers for where the kernel owns the interface.
struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 65536);
    __type(key, struct prefix4);
    __type(value, __u8);
} local4 SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 65536);
    __type(key, struct prefix6);
    __type(value, __u8);
} local6 SEC(".maps");

struct vlan_tag {
    __be16 control;
    __be16 type;
} __attribute__((packed));

// RFC 826, for Ethernet and IPv4.
struct arp {
    __be16 hardware, protocol;
    __u8 hardware_length, protocol_length;
    __be16 operation;
    __u8 sender_mac[6], sender[4], target_mac[6], target[4];
} __attribute__((packed));

struct ipv4 {
    __u8 version_length, service;
    __be16 total_length, id, fragment;
    __u8 ttl, protocol;
    __be16 checksum;
    __u8 source[4], destination[4];
} __attribute__((packed));

struct ipv6 {
    __be32 version_class_label;
    __be16 payload_length;
    __u8 next_header, hop_limit, source[16], destination[16];
} __attribute__((packed));

// RFC 4861 §4.3 and §4.4: both kinds begin alike.
struct neighbor_message {
    __u8 type, code;
    __be16 checksum;
    __be32 flags;
    __u8 target[16];
} __attribute__((packed));

// Who a frame is for, by its destination MAC.
enum audience { US, GROUP, OTHERS };

static __always_inline int is_local4(const __u8 *address) {
    struct prefix4 key = {.length = 32};
    __builtin_memcpy(key.address, address, sizeof(key.address));
    return bpf_map_lookup_elem(&local4, &key) != 0;
}

static __always_inline int is_local6(const __u8 *address) {
    struct prefix6 key = {.length = 128};
    __builtin_memcpy(key.address, address, sizeof(key.address));
    return bpf_map_lookup_elem(&local6, &key) != 0;
}

// A router resolves and is resolved by nobody else, so it takes all of ARP. Beside a kernel
// that owns the interface only questions about our own addresses are for us.
static __always_inline int is_our_arp(const struct arp *arp, void *end, __u64 mode) {
    if ((void *)(arp + 1) > end)
        return 0;
    if (mode == MODE_ROUTER)
        return 1;
    return arp->operation == bpf_htons(ARP_REQUEST) && is_local4(arp->target);
}

static __always_inline int is_our_ipv4(const struct ipv4 *ip, void *end, enum audience audience, __u64 mode) {
    if ((void *)(ip + 1) > end || audience != US)
        return 0;
    return mode == MODE_ROUTER || is_local4(ip->destination);
}

static __always_inline int is_our_neighbor_message(const struct ipv6 *ip, void *end, __u64 mode) {
    const struct neighbor_message *message = (const void *)(ip + 1);
    if (ip->next_header != ICMPV6 || ip->hop_limit != ND_HOP_LIMIT || (void *)(message + 1) > end)
        return 0;
    if (message->type == ND_NEIGHBOR_SOLICITATION)
        return mode == MODE_ROUTER || is_local6(message->target);
    return message->type == ND_NEIGHBOR_ADVERTISEMENT && mode == MODE_ROUTER;
}

static __always_inline int is_our_ipv6(const struct ipv6 *ip, void *end, enum audience audience, __u64 mode) {
    if ((void *)(ip + 1) > end)
        return 0;
    if (audience == US && (mode == MODE_ROUTER || is_local6(ip->destination)))
        return 1;
    return is_our_neighbor_message(ip, end, mode);
}

static __always_inline int is_vlan(__be16 type) {
    return type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD);
}

static __always_inline int is_ours(struct xdp_md *frame, const struct settings *settings) {
    void *end = (void *)(long)frame->data_end;
    struct ethhdr *ethernet = (void *)(long)frame->data;
    if ((void *)(ethernet + 1) > end)
        return 0;

    __u64 destination = 0;
    __builtin_memcpy(&destination, ethernet->h_dest, ETH_ALEN);
    enum audience audience = destination == settings->mac ? US : ethernet->h_dest[0] & 1 ? GROUP : OTHERS;
    if (audience == OTHERS)
        return 0;

    __be16 type = ethernet->h_proto;
    void *payload = ethernet + 1;
#pragma unroll
    for (int tags = 0; tags < MAX_VLAN_TAGS; tags++) {
        if (!is_vlan(type))
            break;
        struct vlan_tag *tag = payload;
        if ((void *)(tag + 1) > end)
            return 0;
        type = tag->type;
        payload = tag + 1;
    }

    __u64 mode = settings->mode;
    switch (type) {
    case bpf_htons(ETH_P_IP):
        return is_our_ipv4(payload, end, audience, mode);
    case bpf_htons(ETH_P_IPV6):
        return is_our_ipv6(payload, end, audience, mode);
    case bpf_htons(ETH_P_ARP):
        return is_our_arp(payload, end, mode);
    }
    return 0;
}

// The coarse clock may lag a beat by a tick: a negative age is fresh.
static __always_inline int is_alive(const struct settings *settings) {
    __u32 zero = 0;
    const volatile __u64 *beat = bpf_map_lookup_elem(&heartbeat, &zero);
    if (!beat)
        return 0;
    __u64 last = *beat;
    return last != 0 && (__s64)(bpf_ktime_get_coarse_ns() - last) <= (__s64)settings->stale_after_ns;
}

// `xdp.frags`: frames of several buffers come too; their headers are in the first.
SEC("xdp.frags")
int millrace_steer(struct xdp_md *frame) {
    __u32 zero = 0;
    const struct settings *current = bpf_map_lookup_elem(&settings, &zero);
    struct statistics *counts = bpf_map_lookup_elem(&stats, &zero);
    if (!current || !counts)
        return XDP_PASS;
    if (!is_ours(frame, current)) {
        counts->passed++;
        return XDP_PASS;
    }
    if (!is_alive(current)) {
        counts->stale++;
        return XDP_PASS;
    }
    int action = bpf_redirect_map(&xsks, frame->rx_queue_index, XDP_PASS);
    if (action == XDP_REDIRECT)
        counts->redirected++;
    else
        counts->unbound++;
    return action;
}

// The kernel reads it; some helpers are for GPL-compatible programs alone.
char LICENSE[] SEC("license") = "Dual BSD/GPL";
