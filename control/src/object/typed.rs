//! JSON → Kubernetes types. An item of the wrong type in one of the lists that tables are made from is left out, and refused by its
//! field; the rest of the object is read as if the item had been empty. Any other field of the wrong type refuses the object.
//!
//! Only lists in which an item less opens nothing are among them: without a source range, a Service would answer more clients.

use serde::Deserialize;
use serde_json::{Value, json};
use serde_path_to_error::{Path, Segment};

use super::Kind;

/// A field and what is wrong with it.
pub(super) type Fault = (String, String);

/// Each of these has the whole object read once more; an object with more of them is no slip of the pen.
const MOST: usize = 16;

/// A list by its path, and whether its items are mappings (else they are strings).
struct List(Kind, &'static [&'static str], bool);

const LISTS: [List; 9] = [
    List(Kind::Service, &["spec", "ports"], true),
    List(Kind::Service, &["spec", "externalIPs"], false),
    List(Kind::Service, &["status", "loadBalancer", "ingress"], true),
    List(Kind::EndpointSlice, &["endpoints"], true),
    List(Kind::EndpointSlice, &["ports"], true),
    List(Kind::Node, &["status", "addresses"], true),
    List(Kind::Node, &["spec", "podCIDRs"], false),
    List(Kind::Pod, &["status", "podIPs"], true),
    List(Kind::ServiceCidr, &["spec", "cidrs"], false),
];

/// The object, and the items that are empty in it though they were not. Or what makes it useless.
pub(super) fn typed<T: for<'de> Deserialize<'de>>(
    kind: Kind,
    mut value: Value,
) -> Result<(T, Vec<Fault>), Fault> {
    let mut faults = Vec::new();
    loop {
        let error = match serde_path_to_error::deserialize(&value) {
            Ok(object) => return Ok((object, faults)),
            Err(error) => error,
        };
        let path = error.path().to_string();
        let field = if path == "." { String::new() } else { path };
        let fault = (field, error.inner().to_string());
        if faults.len() == MOST || !blank(kind, error.path(), &mut value) {
            return Err(fault);
        }
        faults.push(fault);
    }
}

/// Empties the item that `path` leads into or to. False where it is in none of the lists.
fn blank(kind: Kind, path: &Path, value: &mut Value) -> bool {
    let found = LISTS.iter().filter(|List(of, ..)| *of == kind).find_map(|List(_, keys, map)| {
        let mut segments = path.iter();
        let inside = keys.iter().all(
            |key| matches!(segments.next(), Some(Segment::Map { key: other }) if other == key),
        );
        match segments.next() {
            Some(Segment::Seq { index }) if inside => Some((*keys, *index, *map)),
            _ => None,
        }
    });
    let Some((keys, index, map)) = found else { return false };
    let list = keys.iter().try_fold(value, |value, key| value.get_mut(key));
    let Some(item) = list.and_then(|list| list.get_mut(index)) else { return false };
    *item = if map { json!({}) } else { json!("") };
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};

    #[test]
    fn an_item_of_the_wrong_type_is_emptied_and_the_others_keep_their_places() {
        let value = json!({"spec": {"ports": [{"port": "http"}, {"port": 80}, null, {"port": 9_000_000_000_i64}],
            "externalIPs": [7, "192.0.2.1"]}});
        let (service, faults) = typed::<Service>(Kind::Service, value).unwrap();
        let spec = service.spec.unwrap();
        let ports: Vec<i32> = spec.ports.unwrap().iter().map(|port| port.port).collect();
        assert_eq!(ports, [0, 80, 0, 0]);
        assert_eq!(spec.external_ips.unwrap(), ["", "192.0.2.1"]);
        let mut fields: Vec<&str> = faults.iter().map(|(field, _)| field.as_str()).collect();
        fields.sort_unstable();
        assert_eq!(
            fields,
            ["spec.externalIPs[0]", "spec.ports[0].port", "spec.ports[2]", "spec.ports[3].port"]
        );
    }

    #[test]
    fn what_is_no_item_of_such_a_list_refuses_the_object() {
        for (value, field) in [
            (json!({"spec": {"ports": "all"}}), "spec.ports"),
            (
                json!({"spec": {"loadBalancerSourceRanges": [7]}}),
                "spec.loadBalancerSourceRanges[0]",
            ),
            (json!({"spec": {"clusterIP": 7}}), "spec.clusterIP"),
            (json!({"metadata": {"labels": {"a": 1}}}), "metadata.labels.a"),
            (json!(3), ""),
        ] {
            assert_eq!(typed::<Service>(Kind::Service, value).unwrap_err().0, field);
        }
    }

    #[test]
    fn an_object_with_too_many_of_them_is_refused() {
        let many =
            |count: usize| json!({"addressType": "IPv4", "endpoints": vec![Value::Null; count]});
        assert!(typed::<EndpointSlice>(Kind::EndpointSlice, many(MOST)).is_ok());
        assert!(typed::<EndpointSlice>(Kind::EndpointSlice, many(MOST + 1)).is_err());
    }
}
