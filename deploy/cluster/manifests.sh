# Sourced by run.sh: the cluster's objects, as an API server would have them.
#
# node N is 10.40.0.N and has pods a (10.41.N.11) and b (10.41.N.12); everything is the same in IPv6 with fd40::N and fd41:N::11.

# slice SERVICE FAMILY "PORTS" ADDRESS@NODE[!STATE]…: PORTS as name:number:protocol; STATE is leaving (terminating, serves), gone
# (terminating, does not) or unready
slice() {
    local service=$1 family=$2 ports=$3
    shift 3
    local suffix=${family,,}
    cat <<END
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: $service-$suffix
  namespace: default
  labels: {kubernetes.io/service-name: $service}
addressType: $family
ports:
END
    local port
    for port in $ports; do
        local name=${port%%:*} rest=${port#*:}
        echo "- {name: $name, port: ${rest%%:*}, protocol: ${rest#*:}}"
    done
    if (($# == 0)); then
        echo "endpoints: []"
        return
    fi
    echo "endpoints:"
    local endpoint
    for endpoint in "$@"; do
        local conditions="ready: true, serving: true, terminating: false"
        case $endpoint in
        *!leaving) conditions="ready: false, serving: true, terminating: true" ;;
        *!gone) conditions="ready: false, serving: false, terminating: true" ;;
        *!unready) conditions="ready: false, serving: false, terminating: false" ;;
        esac
        endpoint=${endpoint%!*}
        echo "- {addresses: [\"${endpoint%@*}\"], nodeName: ${endpoint#*@}, conditions: {$conditions}}"
    done
}

# service NAME TYPE NUMBER NODEPORT "EXTRA": cluster addresses 10.43.0.NUMBER and fd43::NUMBER
service() {
    local name=$1 type=$2 number=$3 node_port=$4 extra=${5:-}
    local tcp="" udp="" sctp=""
    if ((node_port > 0)); then
        tcp=", nodePort: $node_port" udp=", nodePort: $node_port" sctp=", nodePort: $node_port"
    fi
    cat <<END
---
apiVersion: v1
kind: Service
metadata: {name: $name, namespace: default}
spec:
  type: $type
  clusterIP: 10.43.0.$number
  clusterIPs: ["10.43.0.$number", "fd43::$number"]
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: RequireDualStack
  ports:
  - {name: http, port: 80, protocol: TCP, targetPort: http$tcp}
  - {name: dns, port: 53, protocol: UDP, targetPort: dns$udp}
  - {name: sigtran, port: 90, protocol: SCTP, targetPort: sigtran$sctp}
$extra
END
}

# both NAME PODS…: slices of both families for pods such as 1a, or 1a!leaving
both() {
    local name=$1 four=() six=() pod
    shift
    for pod in "$@"; do
        local state=${pod:2} node=${pod:0:1} host=11
        [[ ${pod:1:1} == b ]] && host=12
        four+=("10.41.$node.$host@node-$node$state")
        six+=("fd41:$node::$host@node-$node$state")
    done
    slice "$name" IPv4 "$ports" "${four[@]}"
    slice "$name" IPv6 "$ports" "${six[@]}"
}

# node NUMBER ["more: metadata"]
node() {
    cat <<END
apiVersion: v1
kind: Node
metadata: {name: node-$1${2:+, $2}}
spec: {podCIDR: 10.41.$1.0/24, podCIDRs: [10.41.$1.0/24, "fd41:$1::/64"]}
status: {addresses: [{type: InternalIP, address: 10.40.0.$1}, {type: InternalIP, address: "fd40::$1"}]}
END
}

manifests() {
    local ports="http:8080:TCP dns:8080:UDP sigtran:8080:SCTP"
    service web LoadBalancer 10 30080 "  externalIPs: [\"10.42.1.10\"]
status: {loadBalancer: {ingress: [{ip: 10.42.0.10}, {ip: \"fd42::10\"}]}}"
    both web 1a 1b 2a 3a
    service local LoadBalancer 11 30081 "  externalTrafficPolicy: Local
  healthCheckNodePort: 31081
status: {loadBalancer: {ingress: [{ip: 10.42.0.11}]}}"
    both local 1a 2a
    service inner ClusterIP 12 0 "  internalTrafficPolicy: Local"
    both inner 1b 2a
    service sticky NodePort 13 30083 "  sessionAffinity: ClientIP"
    both sticky 1a 1b 2a 3a
    service self NodePort 14 30084
    both self 1a
    service remote NodePort 15 30085
    both remote 2a
    service empty LoadBalancer 17 30087 "  externalIPs: [\"10.42.1.17\"]
status: {loadBalancer: {ingress: [{ip: 10.42.0.17}]}}"
    slice empty IPv4 "$ports"
    ports="http:9090:TCP dns:9090:UDP sigtran:9090:SCTP"
    service host NodePort 16 30086
    slice host IPv4 "$ports" 10.40.0.2@node-2
    slice host IPv6 "$ports" fd40::2@node-2
    service inner-host ClusterIP 18 0 "  internalTrafficPolicy: Local"
    slice inner-host IPv4 "$ports" 10.40.0.2@node-2
    # Something outside of the cluster: no pod, on no node.
    service outside ClusterIP 19 0
    slice outside IPv4 "$ports" 10.40.0.9@
    ports="http:8080:TCP dns:8080:UDP sigtran:8080:SCTP"
    service ranged LoadBalancer 30 30100 "  loadBalancerSourceRanges: [\"10.40.0.9/32\", \" 10.40.0.1/32\"]
status: {loadBalancer: {ingress: [{ip: 10.42.0.30}]}}"
    both ranged 2a
    service closed LoadBalancer 31 30101 "  loadBalancerSourceRanges: [\"10.40.0.77/32\"]
status: {loadBalancer: {ingress: [{ip: 10.42.0.31}]}}"
    both closed 2a
    # Here only endpoints on their way out: they serve on, but no load balancer is to send anything more.
    service fading LoadBalancer 35 30105 "  externalTrafficPolicy: Local
  healthCheckNodePort: 31082
status: {loadBalancer: {ingress: [{ip: 10.42.0.35}]}}"
    both fading '1a!leaving' 2a
    # The cases of endpoints on their way out: who serves node 1, by policy.
    local policy at=40
    for policy in Cluster Local; do
        local extra="  externalTrafficPolicy: $policy
  internalTrafficPolicy: $policy"
        service "ready-${policy,,}" NodePort $at $((30100 + at)) "$extra"
        both "ready-${policy,,}" 1a '1b!leaving' 2a '2b!leaving'
        service "leaving-${policy,,}" NodePort $((at + 1)) $((30101 + at)) "$extra"
        if [[ $policy == Cluster ]]; then both leaving-cluster '1a!leaving' '1b!gone' '2a!leaving'; else both leaving-local '1a!leaving' '1b!gone' 2a; fi
        service "gone-${policy,,}" NodePort $((at + 2)) $((30102 + at)) "$extra"
        both "gone-${policy,,}" '1a!gone' '2a!gone' '3a!unready'
        service "far-${policy,,}" NodePort $((at + 3)) $((30103 + at)) "$extra"
        both "far-${policy,,}" '1a!gone' 2a
        at=$((at + 10))
    done
    # Nobody listens on the port of the pod that is named.
    ports="http:8099:TCP dns:8099:UDP sigtran:8099:SCTP"
    service shut NodePort 32 30102
    both shut 2a
}
