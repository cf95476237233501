// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//
// Every frame to the socket of the queue that it came in on, or to the kernel where that queue has none.

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
    __uint(type, BPF_MAP_TYPE_XSKMAP);
    __uint(max_entries, 64); // the loader sets what is needed
    __type(key, __u32);
    __type(value, __u32);
} xsks SEC(".maps");

SEC("xdp")
int millrace_pktgen(struct xdp_md *context) {
    return bpf_redirect_map(&xsks, context->rx_queue_index, XDP_PASS);
}

char _license[] SEC("license") = "Dual BSD/GPL";
