//! A few policies for the path's tests, set as control would: who may reach the backend, and whom it may reach.

use millrace_tables::{
    ByPolicies, ClassId, DecisionId, DecisionSpec, EndpointSpec, PolicyChanges, PolicyId,
    PolicySpec, PortMapId, PortMapSpec, SubjectId,
};

use crate::world::*;

/// Classes.
pub const CLIENTS: ClassId = ClassId(1);
pub const BACKENDS: ClassId = ClassId(2);

/// Policies, also the decisions by them.
pub const DENY_ALL: PolicyId = PolicyId(0);
pub const ALLOW: PolicyId = PolicyId(1);
pub const SHADOW: PolicyId = PolicyId(2);

const DENIED: DecisionId = DecisionId(0);
const ALLOWED: DecisionId = DecisionId(1);
const SHADOWED: DecisionId = DecisionId(2);

/// What may be done.
pub const NOTHING: PortMapId = PortMapId(0);
pub const ANYTHING: PortMapId = PortMapId(1);
/// TCP and SCTP port 8080.
pub const WEB: PortMapId = PortMapId(2);
/// UDP port 8080.
pub const DATAGRAMS: PortMapId = PortMapId(3);
/// Anything, which a policy in shadow mode would deny.
pub const WATCHED: PortMapId = PortMapId(4);

/// Rules for who may reach an endpoint, and for whom it may reach.
pub const INGRESS: SubjectId = SubjectId(0);
pub const EGRESS: SubjectId = SubjectId(1);

pub const CLIENT: &str = "10.0.1.2";
pub const CLIENT6: &str = "2001:db8:1::2";
pub const BACKEND: &str = "10.0.2.10";
pub const BACKEND6: &str = "2001:db8:2::10";

fn only(port: u16) -> Vec<(u16, DecisionId)> {
    vec![(0, DENIED), (port, ALLOWED), (port + 1, DENIED)]
}

impl World {
    /// Sets decisions and maps. Nobody is isolated.
    pub fn with_rules() -> World {
        World::new().given_rules()
    }

    /// The same of this world.
    pub fn given_rules(mut self) -> World {
        let writer = &mut self.writer;
        for (id, name, shadow) in [
            (DENY_ALL, "NetworkPolicy default/deny-all", false),
            (ALLOW, "NetworkPolicy default/allow", false),
            (SHADOW, "NetworkPolicy default/watch", true),
        ] {
            writer.set_policy(id, &PolicySpec { name: name.into(), pods: 1, shadow }).unwrap();
        }
        let by = |policy, rule| ByPolicies { policies: vec![policy], rule };
        for (id, allow, by, shadow) in [
            (DENIED, false, by(DENY_ALL, None), None),
            (ALLOWED, true, by(ALLOW, Some(1)), None),
            (SHADOWED, true, by(ALLOW, Some(1)), Some(by(SHADOW, None))),
        ] {
            writer.set_decision(id, &DecisionSpec { allow, by, shadow }).unwrap();
        }
        let nothing = PortMapSpec::all(DENIED);
        let mut web = nothing.clone();
        (web.tcp, web.sctp) = (only(8080), only(8080));
        let mut datagrams = nothing.clone();
        datagrams.udp = only(8080);
        for (id, map) in [
            (NOTHING, nothing),
            (ANYTHING, PortMapSpec::all(ALLOWED)),
            (WEB, web),
            (DATAGRAMS, datagrams),
            (WATCHED, PortMapSpec::all(SHADOWED)),
        ] {
            writer.set_port_map(id, &map).unwrap();
        }
        for subject in [INGRESS, EGRESS] {
            writer.set_subject(subject, NOTHING).unwrap();
        }
        for (addr, class) in
            [(CLIENT, CLIENTS), (CLIENT6, CLIENTS), (BACKEND, BACKENDS), (BACKEND6, BACKENDS)]
        {
            self.endpoint(addr, EndpointSpec { class, ..EndpointSpec::default() });
        }
        self.writer.publish().unwrap();
        self
    }

    pub fn endpoint(&mut self, at: &str, spec: EndpointSpec) {
        self.writer.set_policy_endpoint(addr(at).to_ip().into(), &spec).unwrap();
    }

    /// The backend is isolated in these directions, and clients, or as clients, may do this.
    pub fn isolate(&mut self, ingress: Option<PortMapId>, egress: Option<PortMapId>) {
        self.isolate_with(0, ingress, egress);
    }

    /// The same, of a backend with these flags.
    pub fn isolate_with(
        &mut self,
        flags: u32,
        ingress: Option<PortMapId>,
        egress: Option<PortMapId>,
    ) {
        for (subject, map) in [(INGRESS, ingress), (EGRESS, egress)] {
            self.writer.set_cells(subject, &[(CLIENTS, map)]).unwrap();
        }
        for at in [BACKEND, BACKEND6] {
            let spec = EndpointSpec {
                class: BACKENDS,
                ingress: ingress.map(|_| INGRESS),
                egress: egress.map(|_| EGRESS),
                flags,
                ..EndpointSpec::default()
            };
            self.endpoint(at, spec);
        }
        self.writer.publish().unwrap();
    }

    pub fn keep_flows(&mut self) {
        self.writer.set_policy_changes(PolicyChanges::Keep);
        self.writer.publish().unwrap();
    }

    /// What worker 0 has counted for a policy: allowed, denied, shadow. The twin has counted the same.
    pub fn policy_counts(&self, policy: PolicyId) -> [u64; 3] {
        let of = |worker: &Worker| worker.state.counters.policies.get(policy);
        assert_eq!(self.twins.first().map(of), Some(of(&self.workers[0])));
        of(&self.workers[0])
    }

    /// Tracked flows.
    pub fn tracked(&self) -> usize {
        self.workers[0].state.conntrack.table().flows(self.now).count()
    }
}
