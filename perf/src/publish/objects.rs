//! The objects of a cluster: Services and EndpointSlices as the API server would bring them, judged and ready for the store.

use millrace_control::desired::Row;
use millrace_control::object::{Decoded, decode};
use serde_json::{Value, json};
use std::net::Ipv4Addr;

/// Slices of a Service have up to this many endpoints: what the EndpointSlice controller fills them to is 100, and the API allows.
const SLICE: u32 = 1000;

/// A cluster with `services` Services of `endpoints` endpoints each.
#[derive(Clone, Copy, Debug)]
pub struct Cluster {
    /// Services.
    pub services: u32,
    /// Endpoints of each.
    pub endpoints: u32,
}

impl Cluster {
    /// All objects.
    pub fn values(&self) -> impl Iterator<Item = Value> + '_ {
        (0..self.services).flat_map(|number| {
            [service(number), slice(number, 0, self.endpoints, Endpoints::of(number))]
        })
    }
}

/// The objects of one more Service, with so many endpoints that they need several slices.
pub fn large(number: u32, endpoints: u32) -> impl Iterator<Item = Value> {
    let slices = (0..endpoints.div_ceil(SLICE)).map(move |part| {
        let count = SLICE.min(endpoints - part * SLICE);
        slice(number, part, count, Endpoints::of_large(part))
    });
    std::iter::once(service(number)).chain(slices)
}

/// The slice of a large Service with one endpoint replaced.
pub fn changed_large(number: u32, endpoints: u32, part: u32, place: u32, new: u32) -> Value {
    let count = SLICE.min(endpoints - part * SLICE);
    slice(number, part, count, Endpoints::of_large(part).replaced(place, new))
}

/// The slice of Service `number` with endpoint `place` replaced by the `new`th newcomer.
pub fn changed(number: u32, count: u32, place: u32, new: u32) -> Value {
    slice(number, 0, count, Endpoints::of(number).replaced(place, new))
}

/// The row that an object makes. Fails on an object that would not be in force whole.
pub fn judge(value: Value) -> Result<Row, String> {
    match decode(value).pop() {
        Some(Decoded::Object(key, object)) => {
            let row = Row::judge(key, &object);
            row.refusals.first().map_or(Ok(row.clone()), |refusal| Err(refusal.to_string()))
        }
        other => Err(format!("not an object: {other:?}")),
    }
}

/// The address of Service `number`; it listens on UDP port 80.
pub fn vip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0xac10_0000 + number)
}

fn namespace(number: u32) -> String {
    format!("namespace-{}", number % 100)
}

fn service(number: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": namespace(number), "name": format!("service-{number}")},
        "spec": {
            "clusterIP": vip(number), "clusterIPs": [vip(number)],
            "ports": [{"name": "http", "protocol": "UDP", "port": 80, "targetPort": 8080}],
        },
    })
}

/// Where a slice's endpoints are, and which of them is a newcomer.
#[derive(Clone, Copy)]
struct Endpoints {
    first: u32,
    replaced: Option<(u32, u32)>,
}

impl Endpoints {
    fn of(number: u32) -> Self {
        Self { first: 0x0a80_0000 + number * 16, replaced: None }
    }

    fn of_large(part: u32) -> Self {
        Self { first: 0x0af0_0000 + part * 4096, replaced: None }
    }

    fn replaced(self, place: u32, new: u32) -> Self {
        Self { replaced: Some((place, 0x0af8_0000 + new)), ..self }
    }

    fn address(&self, place: u32) -> u32 {
        match self.replaced {
            Some((replaced, new)) if replaced == place => new,
            _ => self.first + place,
        }
    }
}

fn slice(number: u32, part: u32, count: u32, at: Endpoints) -> Value {
    let endpoints: Vec<Value> = (0..count)
        .map(|place| {
            let address = at.address(place);
            // A pod's name as a ReplicaSet gives it: five characters of its own.
            let name = format!("service-{number}-7d4b9c6f5-{:05x}", (address * 31) & 0xf_ffff);
            json!({
                "addresses": [Ipv4Addr::from(address)],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": format!("node-{}", address % 500),
                "targetRef": {"kind": "Pod", "namespace": namespace(number), "name": name},
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": namespace(number), "name": format!("service-{number}-{part:05}"),
            "labels": {"kubernetes.io/service-name": format!("service-{number}")},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "UDP", "port": 8080}],
        "endpoints": endpoints,
    })
}
