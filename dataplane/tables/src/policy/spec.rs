//! What the writer is told of policies, checked before anything is changed.

use crate::{
    error::Error,
    policy::{ClassId, DecisionId, PolicyId, PortMapId, SubjectId},
    spec::MAX_NAME,
};

/// Numbers of policies, which have counters, are below it.
pub const MAX_POLICIES: u32 = 1 << 16;
/// Numbers of classes, subjects, port maps and decisions are below it.
pub const MAX_NUMBER: u32 = 1 << 22;
/// Most policies that decide together.
pub const MAX_DECIDERS: usize = 4096;

/// What is known of the addresses of a prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointSpec {
    /// What they are as peers.
    pub class: ClassId,
    /// The rules for who may reach them. `None`: anybody.
    pub ingress: Option<SubjectId>,
    /// The rules for whom they may reach. `None`: anybody.
    pub egress: Option<SubjectId>,
    /// [`crate::Endpoint::NODE`], [`crate::Endpoint::CLOSED`], [`crate::Endpoint::LOCAL`], [`crate::Endpoint::FENCED`].
    pub flags: u32,
    /// What `explain` calls them, such as `default/web-0`. May be empty.
    pub name: String,
    /// What is decided of what they send to themselves by way of a service, as what comes to them and as what they send. `None`: it may pass.
    pub itself: [Option<PortMapId>; 2],
}

/// Who decides: one policy by a rule, or those that isolate the endpoint, together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ByPolicies {
    /// The policies. None: nobody had to, as with a flow that no policy is about.
    pub policies: Vec<PolicyId>,
    /// The number of the rule, as it is shown.
    pub rule: Option<u16>,
}

/// Whether a flow may begin, and who says so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct DecisionSpec {
    /// Whether it may.
    pub allow: bool,
    /// Who says so.
    pub by: ByPolicies,
    /// Policies in shadow mode that would deny it.
    pub shadow: Option<ByPolicies>,
}

/// From this port on this decision, up to the next one: the first from port 0, ascending.
pub type Intervals = Vec<(u16, DecisionId)>;

/// A function from protocol and destination port to a decision.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PortMapSpec {
    /// TCP.
    pub tcp: Intervals,
    /// UDP.
    pub udp: Intervals,
    /// SCTP.
    pub sctp: Intervals,
    /// Every other protocol, which has no ports: ICMP and the rest.
    pub other: DecisionId,
}

impl PortMapSpec {
    /// The same decision for all.
    pub fn all(decision: DecisionId) -> Self {
        let [tcp, udp, sctp] = std::array::from_fn(|_| vec![(0, decision)]);
        Self { tcp, udp, sctp, other: decision }
    }
}

/// A policy object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySpec {
    /// What `show` and `explain` call it: `NetworkPolicy default/web`, `ClusterNetworkPolicy admin`.
    pub name: String,
    /// Pods that it selects.
    pub pods: u32,
    /// Whether it is in shadow mode.
    pub shadow: bool,
}

fn refused(row: String, why: impl Into<String>) -> Error {
    Error::Row { row, why: why.into() }
}

/// Checks a number of a row of policy tables.
pub(crate) fn check_number(what: &str, number: u32, most: u32) -> Result<(), Error> {
    if number < most {
        return Ok(());
    }
    Err(refused(format!("{what} {number}"), format!("its number has to be below {most}")))
}

impl EndpointSpec {
    pub(crate) fn check(&self, prefix: &ipnet::IpNet) -> Result<(), Error> {
        let row = || format!("policy endpoint {prefix} ({})", self.name);
        if self.name.len() > MAX_NAME {
            return Err(refused(row(), "its name is too long"));
        }
        let subjects = [self.ingress, self.egress].into_iter().flatten().map(|subject| subject.0);
        if subjects.chain([self.class.0]).any(|number| number >= MAX_NUMBER) {
            return Err(refused(
                row(),
                format!("numbers of class and subjects have to be below {MAX_NUMBER}"),
            ));
        }
        if self.itself.iter().flatten().any(|map| map.0 >= MAX_NUMBER) {
            let why = format!("numbers of port maps have to be below {MAX_NUMBER}");
            return Err(refused(row(), why));
        }
        use crate::Endpoint;
        let known = Endpoint::NODE | Endpoint::CLOSED | Endpoint::LOCAL | Endpoint::FENCED;
        if self.flags & !known != 0 {
            return Err(refused(row(), format!("flags {:#x} are unknown", self.flags)));
        }
        Ok(())
    }
}

impl DecisionSpec {
    pub(crate) fn check(&self, id: DecisionId) -> Result<(), Error> {
        check_number("decision", id.0, MAX_NUMBER)?;
        let row = || format!("decision {}", id.0);
        for by in [Some(&self.by), self.shadow.as_ref()].into_iter().flatten() {
            if by.policies.len() > MAX_DECIDERS {
                let why = format!("{} policies; at most {MAX_DECIDERS}", by.policies.len());
                return Err(refused(row(), why));
            }
            if by.policies.iter().any(|policy| policy.0 >= MAX_POLICIES) {
                let why = format!("numbers of policies have to be below {MAX_POLICIES}");
                return Err(refused(row(), why));
            }
        }
        Ok(())
    }
}

impl PortMapSpec {
    pub(crate) fn check(&self, id: PortMapId) -> Result<(), Error> {
        check_number("port map", id.0, MAX_NUMBER)?;
        let row = |protocol: &str| format!("port map {} ({protocol})", id.0);
        for (protocol, ports) in [("TCP", &self.tcp), ("UDP", &self.udp), ("SCTP", &self.sctp)] {
            if ports.first().is_none_or(|(first, _)| *first != 0) {
                return Err(refused(row(protocol), "has to begin at port 0"));
            }
            if ports.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
                return Err(refused(row(protocol), "ports have to ascend"));
            }
            if ports.iter().any(|(_, decision)| decision.0 >= MAX_NUMBER) {
                let why = format!("numbers of decisions have to be below {MAX_NUMBER}");
                return Err(refused(row(protocol), why));
            }
        }
        check_number("decision", self.other.0, MAX_NUMBER)
    }
}

impl PolicySpec {
    pub(crate) fn check(&self, id: PolicyId) -> Result<(), Error> {
        check_number("policy", id.0, MAX_POLICIES)?;
        if self.name.is_empty() || self.name.len() > MAX_NAME {
            let row = format!("policy {} ({})", id.0, self.name);
            return Err(refused(row, format!("its name has to have 1 to {MAX_NAME} bytes")));
        }
        Ok(())
    }
}
