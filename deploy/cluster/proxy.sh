# Sourced by run.sh: rules as kube-proxy writes them, for the Service `remote` (10.43.0.15, node port 30085, one endpoint) on one node.
# Reference: Kubernetes 1.36, pkg/proxy/nftables/proxier.go and pkg/proxy/iptables/proxier.go; chains have shorter names.

# proxy_nftables NODE
proxy_nftables() {
    at "node-$1" nft -f - <<END
table ip kube-proxy {
  chain mark-for-masquerade {
    meta mark set meta mark or 0x4000
  }
  chain masquerading {
    meta mark & 0x4000 == 0 return
    meta mark set meta mark xor 0x4000
    masquerade fully-random
  }
  chain endpoint {
    ip saddr 10.41.2.11 jump mark-for-masquerade
    meta l4proto tcp dnat to 10.41.2.11:8080
  }
  chain service {
    ip daddr 10.43.0.15 tcp dport 80 ip saddr != 10.41.0.0/16 jump mark-for-masquerade
    goto endpoint
  }
  chain external {
    jump mark-for-masquerade
    goto service
  }
  chain services {
    ip daddr . meta l4proto . th dport vmap { 10.43.0.15 . tcp . 80 : goto service }
    ip daddr { 10.40.0.$1 } meta l4proto . th dport vmap { tcp . 30085 : goto external }
  }
  chain cluster-ips-check {
    ip daddr { 10.43.0.15 } reject
    ip daddr 10.43.0.0/16 drop
  }
  chain filter-forward {
    type filter hook forward priority -110; policy accept;
    ct state new jump cluster-ips-check
  }
  chain filter-output {
    type filter hook output priority -90; policy accept;
    ct state new jump cluster-ips-check
  }
  chain nat-prerouting {
    type nat hook prerouting priority -100; policy accept;
    jump services
  }
  chain nat-output {
    type nat hook output priority -100; policy accept;
    jump services
  }
  chain nat-postrouting {
    type nat hook postrouting priority 100; policy accept;
    jump masquerading
  }
}
END
}

proxy_nftables_gone() { at "node-$1" nft delete table ip kube-proxy; }

# proxy_iptables NODE
proxy_iptables() {
    at "node-$1" iptables-legacy-restore --noflush <<END
*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-SVC - [0:0]
:KUBE-EXT - [0:0]
:KUBE-SEP - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-SERVICES -d 10.43.0.15/32 -p tcp -m tcp --dport 80 -j KUBE-SVC
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp -m tcp --dport 30085 -j KUBE-EXT
-A KUBE-EXT -j KUBE-MARK-MASQ
-A KUBE-EXT -j KUBE-SVC
-A KUBE-SVC ! -s 10.41.0.0/16 -d 10.43.0.15/32 -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ
-A KUBE-SVC -j KUBE-SEP
-A KUBE-SEP -s 10.41.2.11/32 -j KUBE-MARK-MASQ
-A KUBE-SEP -p tcp -m tcp -j DNAT --to-destination 10.41.2.11:8080
COMMIT
*filter
:KUBE-FORWARD - [0:0]
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
END
}

# The chains go with the node; that nothing leads to them is what counts.
proxy_iptables_gone() {
    local table
    for table in nat filter; do
        {
            echo "*$table"
            at "node-$1" iptables-legacy-save -t "$table" |
                sed -nE 's/^-A (PREROUTING|OUTPUT|POSTROUTING|FORWARD) (.*KUBE.*)/-D \1 \2/p'
            echo COMMIT
        } | at "node-$1" iptables-legacy-restore --noflush
    done
}
