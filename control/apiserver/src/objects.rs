//! Single objects: created, read, replaced, deleted. Services get addresses and ports, as a cluster gives them.

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::{
    http::{self, Request},
    serve::status,
    store::{Shared, Store},
};

/// What a path means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) kind: &'static str,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
}

impl Target {
    /// `/api/v1/…` or `/apis/GROUP/VERSION/…`, then `[namespaces/NAMESPACE/]KINDS[/NAME]`.
    pub(crate) fn of(path: &str) -> Option<Target> {
        let mut words = path.trim_matches('/').split('/');
        match words.next()? {
            "api" => _ = words.next()?,
            "apis" => _ = (words.next()?, words.next()?),
            _ => return None,
        }
        let mut rest: Vec<&str> = words.collect();
        let mut namespace = None;
        if rest.len() > 2 && rest[0] == "namespaces" {
            namespace = Some(rest[1].to_owned());
            rest.drain(..2);
        }
        let kind = match *rest.first()? {
            "services" => "Service",
            "endpointslices" => "EndpointSlice",
            "nodes" => "Node",
            "namespaces" => "Namespace",
            "pods" => "Pod",
            "events" => "Event",
            "servicecidrs" => "ServiceCIDR",
            "networkpolicies" => "NetworkPolicy",
            "clusternetworkpolicies" => "ClusterNetworkPolicy",
            "adminnetworkpolicies" => "AdminNetworkPolicy",
            "baselineadminnetworkpolicies" => "BaselineAdminNetworkPolicy",
            _ => return None,
        };
        Some(Target { kind, namespace, name: rest.get(1).map(|name| (*name).to_owned()) })
    }
}

pub(crate) fn answer(
    shared: &Shared,
    to: &mut impl Write,
    request: &Request,
    target: &Target,
) -> io::Result<()> {
    let kind = target.kind;
    let namespace = target.namespace.as_deref().unwrap_or_default();
    let find = |name: &str| shared.lock().text(kind, namespace, name);
    match (request.method.as_str(), &target.name) {
        ("GET", Some(name)) => match find(name) {
            Some(text) => http::answer(to, "200 OK", &text),
            None => status(to, 404, "NotFound", &format!("{kind} {name:?} not found")),
        },
        ("DELETE", Some(name)) => match find(name) {
            Some(text) => {
                shared.change(|store| match kind {
                    "Namespace" => store.delete_namespace(name),
                    _ => store.delete(kind, namespace, name),
                });
                http::answer(to, "200 OK", &text)
            }
            None => status(to, 404, "NotFound", &format!("{kind} {name:?} not found")),
        },
        ("POST", None) | ("PUT", Some(_)) => {
            let Ok(mut object) = serde_json::from_slice::<Value>(&request.body) else {
                return status(to, 400, "BadRequest", "the body is no JSON");
            };
            object["kind"] = json!(kind);
            if let Some(namespace) = &target.namespace {
                object["metadata"]["namespace"] = json!(namespace);
            }
            let name = object.pointer("/metadata/name").and_then(Value::as_str).map(str::to_owned);
            let Some(name) = name else {
                return status(to, 422, "Invalid", "metadata.name: is missing");
            };
            let there = find(&name);
            match (request.method.as_str(), there) {
                ("POST", Some(_)) => {
                    status(to, 409, "AlreadyExists", &format!("{kind} {name:?} already exists"))
                }
                ("PUT", None) => status(to, 404, "NotFound", &format!("{kind} {name:?} not found")),
                _ => {
                    let text = shared.change(|store| {
                        allocate(store, &mut object);
                        store.apply(object);
                        store.text(kind, namespace, &name)
                    });
                    http::answer(to, "201 Created", &text.unwrap_or_default())
                }
            }
        }
        _ => status(to, 405, "MethodNotAllowed", "not here"),
    }
}

/// An address of 10.96.0.0/16 and node ports from 30000 up, for a Service that should have them and names none.
fn allocate(store: &mut Store, object: &mut Value) {
    if object["kind"] != "Service" {
        return;
    }
    let spec = &mut object["spec"];
    let of = spec["type"].as_str().unwrap_or("ClusterIP").to_owned();
    if of == "ExternalName" {
        return;
    }
    if spec["clusterIP"].is_null() {
        let number = store.next_number();
        spec["clusterIP"] = json!(format!("10.96.{}.{}", number >> 8 & 0xff, number & 0xff));
    }
    if spec["clusterIP"] != "None" {
        spec["clusterIPs"] = json!([spec["clusterIP"]]);
        spec["ipFamilies"] = json!(["IPv4"]);
    }
    for port in spec["ports"].as_array_mut().into_iter().flatten() {
        if port["protocol"].is_null() {
            port["protocol"] = json!("TCP");
        }
        if ["NodePort", "LoadBalancer"].contains(&of.as_str()) && port["nodePort"].is_null() {
            port["nodePort"] = json!(30000 + store.next_number() % 2768);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_kinds_namespaces_and_objects() {
        let target =
            |path| Target::of(path).map(|target| (target.kind, target.namespace, target.name));
        let own = |text: &str| Some(text.to_owned());
        assert_eq!(target("/api/v1/services"), Some(("Service", None, None)));
        assert_eq!(
            target("/api/v1/namespaces/a/services/b"),
            Some(("Service", own("a"), own("b")))
        );
        assert_eq!(target("/api/v1/namespaces/a"), Some(("Namespace", None, own("a"))));
        assert_eq!(
            target("/apis/discovery.k8s.io/v1/endpointslices"),
            Some(("EndpointSlice", None, None))
        );
        assert_eq!(target("/version"), None);
        assert_eq!(target("/apis/apps/v1/deployments"), None);
    }
}
