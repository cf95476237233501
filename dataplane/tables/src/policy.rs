//! Policies: which flows may begin, at a cost that does not grow with the number of policies, rules, pods or ports.
//!
//! Control compiles; nothing here knows what a selector is. A flow is judged by four look-ups:
//!
//! ```text
//! address ──FIB──→ endpoint row: class, subjects (ingress, egress), flags, name       of both ends
//! subject ──rows─→ cells by class ──→ port map                                        of the end that is isolated, the class of its peer
//! port map ─rows─→ protocol and port ──→ decision
//! decision ─rows─→ allowed or denied, by which policy's rule, and what shadow policies would say
//! ```
//! A *class* ([`ClassId`]) is a set of peers that all rules treat the same; addresses that no prefix covers are of class 0. A *subject* ([`SubjectId`])
//! is a set of rules that apply to an isolated endpoint in one direction; an endpoint without one may do what it likes in that
//! direction. Numbers are control's: dense ones cost least memory.
//!
//! ```text
//! record     0: endpoints 4 | endpoints 6 << 32 (FIB roots)   1: endpoint rows   2: subjects   3: port maps   4: decisions
//!            5: policies   6: flags (8 bits; 1: established flows are kept) | generation of the last change of 5 << 8   7: 0
//! endpoint   0: class | flags << 32   1: ingress subject + 1 | egress subject + 1 << 32   2: names | 1 << 63
//!            3: port map + 1 for what comes to it from itself by way of a service | for what it sends so << 32
//! subject    see `policy/cells.rs`        port map   see `policy/ports.rs`
//! decision   0: verdict (8) | rule + 1 (17, at 8) | policy + 1 << 32   1: the same of shadow policies   2: list | shadow list << 32   3: 0
//! policy     0: names | pods << 32   1: fingerprint (32) | shadow (1, at 32) | 1 << 63
//! list       policies that decided together: count | first << 32, then two a word
//! ```
//! The leaf of a FIB is the number of an endpoint row + 1. What is missing (a subject without row, a cell without port map, a port map
//! without decision) denies: [`Decision::is_missing`].
//!
//! # Costs
//!
//! Judging one direction: the FIB's lines for both addresses (`fib.rs`), two loads and a line for each endpoint row; then subject, cell, port map and
//! decision, two or three loads each, of which one is seldom near; a line that says a plain decision spares the last. A port map of up to 7 intervals is a line of its own; up to 48 a binary
//! search; more, two loads by the port's halves. `policy/tests.rs` counts the lines. Nothing of it is read where no endpoint is isolated or a pod of this node:
//! [`crate::Snapshot::has_policies`] is a word that the snapshot has at hand.
//!
//! | object | bytes in the segment |
//! |---|---|
//! | endpoint | 32, its prefix in the FIB (6 to 20) and its name |
//! | subject | 16, and 4 for each 64 classes up to the highest that has a cell, rounded up to 64 |
//! | cell | 5 where its neighbors have other ones, 32 where none of 64 has; 64 equal ones nothing |
//! | port map | 64 up to 7 intervals, up to 512 to 48, then 1 KiB for a protocol and each 256 ports that differ |
//! | decision | 32, and 4 for each policy where more than one decided |
//! | policy | 16 and its name |
//!
//! `tests/whole/policies.rs` asserts them. A change costs a copy of the tops it touches (`rows.rs`), a chunk, and of an endpoint the FIB's.

pub mod ahead;
pub mod cells;
pub mod ports;
pub mod spec;
#[cfg(test)]
mod tests;

use crate::{
    fib,
    layout::{high, low},
    rows,
    words::{Ref, Words},
};
use millrace_wire::Addr;
pub use spec::{ByPolicies, DecisionSpec, EndpointSpec, Intervals, PolicySpec, PortMapSpec};

/// Layout of these tables, for the segment's layout hash: change it with them.
pub const DESCRIPTION: &str = "\
    policy record endpoints4|6 endpoints subjects portmaps decisions policies flags8|named56; rows top u32 of 16; \
    endpoint class32|flags32 ingress32|egress32 names32 itself32|32, leaf row+1; subject default32|top32 room32|cells32, \
    top u32 of 64 uniform1@31, node bitmap64 u32s of runs map+1; \
    portmap form8|tcp8|udp8|sctp8|other32, 7 intervals start16|decision23|says25 or list or entries tcp32|udp32 sctp32, top 256xu32 leaf 256xu32 block1@31; \
    decision verdict8|rule17@8|policy32 shadow lists32|32 spare; list count32 u32s; policy names32|pods32 fingerprint32|shadow1; ";

/// Words of the policies' record.
pub(crate) const RECORD_WORDS: usize = 8;

/// Words of that record.
pub(crate) mod record {
    /// Roots of the endpoints' FIBs.
    pub const ENDPOINTS: usize = 0;
    /// Endpoint rows.
    pub const ENDPOINT_ROWS: usize = 1;
    /// Subjects.
    pub const SUBJECTS: usize = 2;
    /// Port maps.
    pub const PORT_MAPS: usize = 3;
    /// Decisions.
    pub const DECISIONS: usize = 4;
    /// Policies.
    pub const POLICIES: usize = 5;
    /// [`super::KEEPS_FLOWS`].
    pub const FLAGS: usize = 6;
}

/// In the record's flags: a change leaves established flows alone.
pub(crate) const KEEPS_FLOWS: u64 = 1;
/// In the root's word, beside the record's place: flows of some endpoint are judged, or remembered.
pub(crate) const IN_FORCE: u32 = 1;

/// Words of an endpoint row.
pub(crate) const ENDPOINT_WORDS: usize = 4;
/// Words of a decision.
pub(crate) const DECISION_WORDS: usize = 4;
/// Words of a policy.
pub(crate) const POLICY_WORDS: usize = 2;
/// In an endpoint's third word and a policy's second: the row is in use.
pub(crate) const USED: u64 = 1 << 63;
/// In a policy's second word.
pub(crate) const SHADOW: u64 = 1 << 32;

/// What all rules treat the same, as a peer. 0: addresses that no prefix covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClassId(pub u32);

/// The rules that apply to an isolated endpoint in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SubjectId(pub u32);

/// A function from protocol and port to a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PortMapId(pub u32);

/// Whether a flow may begin, and who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DecisionId(pub u32);

/// A policy object. Its number is where its counters are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PolicyId(pub u32);

/// What established flows do when the policies change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum PolicyChanges {
    /// They are judged again; what is forbidden now, ends.
    #[default]
    Strict,
    /// They go on as they began.
    Keep,
}

/// What is known of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Endpoint {
    /// Its class, as a peer.
    pub class: ClassId,
    /// [`Endpoint::NODE`] and the others.
    pub flags: u32,
    /// Subjects + 1.
    subjects: u64,
    /// Its row + 1, 0 when no prefix covers the address.
    leaf: u32,
}

impl Endpoint {
    /// An address of this node itself: it may reach its own pods, and they it, whatever policies say.
    pub const NODE: u32 = 1;
    /// An address that could be a pod's of this node, of which control has not said yet what may reach it: nothing but the node.
    pub const CLOSED: u32 = 2;
    /// A pod of this node: who began its flows is remembered also while nothing isolates it, for the policies to come.
    pub const LOCAL: u32 = 4;
    /// The rules for whom it may reach are also about this node itself.
    pub const FENCED: u32 = 8;

    /// The rules for who may reach it. `None`: anybody.
    #[inline]
    pub fn ingress(&self) -> Option<SubjectId> {
        (self.subjects as u32).checked_sub(1).map(SubjectId)
    }

    /// The rules for whom it may reach. `None`: anybody.
    #[inline]
    pub fn egress(&self) -> Option<SubjectId> {
        high(self.subjects).checked_sub(1).map(SubjectId)
    }

    /// Whether any flow of it is judged.
    #[inline]
    pub fn is_isolated(&self) -> bool {
        self.subjects != 0 || self.flags & Self::CLOSED != 0
    }

    /// Whether it is an address of this node itself.
    #[inline]
    pub fn is_node(&self) -> bool {
        self.flags & Self::NODE != 0
    }

    /// Whether its flows are remembered: see [`Endpoint::LOCAL`].
    #[inline]
    pub fn is_local(&self) -> bool {
        self.flags & Self::LOCAL != 0
    }

    /// Whether what it sends to this node is judged: see [`Endpoint::FENCED`].
    #[inline]
    pub fn is_fenced(&self) -> bool {
        self.flags & Self::FENCED != 0
    }

    /// Whether it is closed: see [`Endpoint::CLOSED`].
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.flags & Self::CLOSED != 0
    }
}

/// Whether a flow may begin, and who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Decision {
    head: u64,
    shadow: u64,
    lists: u64,
}

pub(crate) const ALLOW: u64 = 1;
pub(crate) const DENY: u64 = 2;

impl Decision {
    /// What is read where the tables have nothing: denied, by nobody.
    pub const MISSING: Self = Self { head: 0, shadow: 0, lists: 0 };

    #[inline]
    const fn plain(head: u64) -> Self {
        Self { head, shadow: 0, lists: 0 }
    }

    /// Whether the flow may begin.
    #[inline]
    pub fn is_allowed(&self) -> bool {
        self.head & 0xff == ALLOW
    }

    /// Whether the tables have no such decision: it denies.
    pub fn is_missing(&self) -> bool {
        self.head == 0
    }

    /// The policy that decided; the first of those that did so together.
    pub fn policy(&self) -> Option<PolicyId> {
        high(self.head).checked_sub(1).map(PolicyId)
    }

    /// Which of its rules. `None` with a policy: it isolates the endpoint, and no rule of any allows the flow.
    pub fn rule(&self) -> Option<u16> {
        rule_of(self.head)
    }

    /// Whether policies in shadow mode would deny a flow that is allowed, or for another reason than the one it is denied for.
    #[inline]
    pub fn would_be_denied(&self) -> bool {
        self.shadow & 0xff == DENY
    }

    /// The shadow policy that would deny it; the first of them.
    pub fn shadow_policy(&self) -> Option<PolicyId> {
        high(self.shadow).checked_sub(1).map(PolicyId)
    }

    /// Which of its rules.
    pub fn shadow_rule(&self) -> Option<u16> {
        rule_of(self.shadow)
    }
}

fn rule_of(word: u64) -> Option<u16> {
    ((word >> 8) as u32 & 0x1_ffff).checked_sub(1).map(|rule| rule as u16)
}

/// The words of a decision, but for its lists.
pub(crate) fn decision_words(spec: &DecisionSpec) -> [u64; 2] {
    let word = |verdict: u64, by: &ByPolicies| {
        let policy = by.policies.first().map_or(0, |policy| u64::from(policy.0) + 1);
        let rule = by.rule.map_or(0, |rule| u64::from(rule) + 1);
        verdict | rule << 8 | policy << 32
    };
    let verdict = if spec.allow { ALLOW } else { DENY };
    [word(verdict, &spec.by), spec.shadow.as_ref().map_or(0, |by| word(DENY, by))]
}

/// A policy as `show` and `explain` know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRow {
    /// Its number.
    pub id: PolicyId,
    /// Its name, such as `NetworkPolicy default/web`.
    pub name: String,
    /// Pods that it selects.
    pub pods: u32,
    /// Whether it only says what it would deny.
    pub shadow: bool,
    /// Of its name: another policy under the same number has another, mostly.
    pub fingerprint: u32,
}

/// The policy tables of a generation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    pub words: Words<'a>,
    pub at: Ref,
}

impl<'a> View<'a> {
    /// Of the root's word.
    #[inline]
    pub fn new(words: Words<'a>, root: u64) -> Self {
        Self { words, at: low(root) }
    }

    /// The word of the record; 0 where there are no policy tables.
    #[inline]
    pub fn word(&self, word: usize) -> u64 {
        if self.at.is_null() { 0 } else { self.words.at(self.at, word) }
    }

    /// What is known of an address.
    #[inline]
    pub fn endpoint(&self, addr: &Addr) -> Endpoint {
        let roots = self.word(record::ENDPOINTS);
        let leaf = if addr.is_v4() {
            fib::lookup(self.words, roots as u32, addr.bits() as u32)
        } else {
            fib::lookup(self.words, high(roots), addr.bits())
        };
        self.endpoint_of(leaf)
    }

    #[inline]
    pub fn endpoint_of(&self, leaf: u32) -> Endpoint {
        let mut endpoint = Endpoint { leaf, ..Endpoint::default() };
        self.read_endpoint(self.endpoint_row(leaf).unwrap_or(Ref::NULL), &mut endpoint);
        endpoint
    }

    /// The row that a leaf stands for.
    #[inline]
    fn endpoint_row(&self, leaf: u32) -> Option<Ref> {
        let number = leaf.checked_sub(1)?;
        rows::find::<ENDPOINT_WORDS>(self.words, self.word(record::ENDPOINT_ROWS), number)
    }

    /// Fills in what a row says; of none, nothing.
    #[inline]
    fn read_endpoint(&self, row: Ref, endpoint: &mut Endpoint) {
        if !row.is_null() {
            let head = self.words.at(row, 0);
            (endpoint.class, endpoint.flags) = (ClassId(head as u32), high(head));
            endpoint.subjects = self.words.at(row, 1);
        }
    }

    /// Where the name of an endpoint is.
    pub fn endpoint_names(&self, endpoint: &Endpoint) -> Ref {
        self.endpoint_row(endpoint.leaf).map_or(Ref::NULL, |row| low(self.words.at(row, 2)))
    }

    /// What the rules of `subject` say of a flow with a peer of `class` to this port.
    #[inline]
    pub fn judge(&self, subject: SubjectId, class: ClassId, protocol: u8, port: u16) -> Decision {
        let map = cells::find(self.words, self.word(record::SUBJECTS), subject.0, class.0);
        let Some(map) = map.checked_sub(1) else { return Decision::MISSING };
        self.said(ports::find(self.words, self.word(record::PORT_MAPS), map, protocol, port))
    }

    /// What is said of a flow that an endpoint sends to itself by way of a service: of the endpoint as the source, and as the destination.
    pub fn judge_itself(
        &self,
        endpoint: &Endpoint,
        protocol: u8,
        port: u16,
    ) -> [Option<Decision>; 2] {
        let row = self.endpoint_row(endpoint.leaf);
        let maps = row.map_or(0, |row| self.words.at(row, 3));
        [high(maps), maps as u32].map(|map| {
            let map = map.checked_sub(1)?;
            let maps = self.word(record::PORT_MAPS);
            Some(self.said(ports::find(self.words, maps, map, protocol, port)))
        })
    }

    /// The decision that a port map has said.
    #[inline]
    fn said(&self, said: ports::Said) -> Decision {
        said.plainly().map_or_else(|| self.decision(said.decision()), Decision::plain)
    }

    /// The row of a decision + 1.
    #[inline]
    fn decision(&self, id: u32) -> Decision {
        let row = id.checked_sub(1).and_then(|number| {
            rows::find::<DECISION_WORDS>(self.words, self.word(record::DECISIONS), number)
        });
        self.decision_at(row.unwrap_or(Ref::NULL))
    }

    /// The decision of a row; [`Decision::MISSING`] of none.
    #[inline]
    fn decision_at(&self, row: Ref) -> Decision {
        if row.is_null() {
            return Decision::MISSING;
        }
        let [head, shadow, lists] = std::array::from_fn(|word| self.words.at(row, word));
        Decision { head, shadow, lists }
    }

    /// The policies that decided, or would.
    pub fn deciders(
        &self,
        decision: &Decision,
        shadow: bool,
    ) -> impl Iterator<Item = PolicyId> + use<'a> {
        let (word, list) = if shadow {
            (decision.shadow, high(decision.lists))
        } else {
            (decision.head, decision.lists as u32)
        };
        let (words, list) = (self.words, Ref::from_raw(list));
        let count = if list.is_null() {
            u32::from(high(word) != 0)
        } else {
            (words.at(list, 0) as u32).min(spec::MAX_DECIDERS as u32)
        };
        (0..count as usize).map(move |index| {
            let id = if list.is_null() { high(word) - 1 } else { words.u32_at(list, index + 1) };
            PolicyId(id)
        })
    }

    /// A policy (cold).
    pub fn policy(&self, id: PolicyId) -> Option<PolicyRow> {
        let at = rows::find::<POLICY_WORDS>(self.words, self.word(record::POLICIES), id.0)?;
        let [head, tail] = std::array::from_fn(|word| self.words.at(at, word));
        (tail & USED != 0).then(|| PolicyRow {
            id,
            name: crate::cold::read(self.words, low(head)).next().unwrap_or_default(),
            pods: high(head),
            shadow: tail & SHADOW != 0,
            fingerprint: tail as u32,
        })
    }

    /// Numbers and fingerprints of all policies, lowest number first.
    pub fn fingerprints(&self) -> impl Iterator<Item = (PolicyId, u32)> + use<'a> {
        let words = self.words;
        rows::iter::<POLICY_WORDS>(words, self.word(record::POLICIES))
            .map(move |(number, at)| (PolicyId(number), words.at(at, 1) as u32))
    }
}
