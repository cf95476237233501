//! Rules in order → what becomes of each protocol and port.
//!
//! The ports of each protocol are a strip that rules paint one after the other; what is painted stays. So a rule costs what it
//! covers, not what others have covered. Tiers as the API has them: admin, where a pass puts ports aside until the tier is done; NetworkPolicies,
//! which leave nothing open once one of them selects the pod; baseline; and what is left is allowed.

use std::collections::BTreeMap;

use millrace_wire::Protocol;

use crate::desired::policy::Action;

/// Which tier a rule is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Admin,
    Network,
    Baseline,
}

/// Who decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Says {
    /// Nobody: allowed.
    Nobody,
    /// A rule of a policy.
    Rule { allow: bool, policy: u32, at: u16 },
    /// The policies that isolate the pod: no rule of theirs allows it.
    Isolated,
}

/// A rule that matches, with its ports as numbers.
#[derive(Clone, Debug)]
pub(super) struct Stroke {
    pub(super) stage: Stage,
    pub(super) action: Action,
    pub(super) policy: u32,
    pub(super) at: u16,
    /// `None`: all protocols.
    pub(super) ports: Option<Vec<(Protocol, u16, u16)>>,
}

/// The places of TCP, UDP, SCTP and the others.
const STRIPS: usize = 4;

fn strip(protocol: Protocol) -> usize {
    match protocol {
        Protocol::TCP => 0,
        Protocol::UDP => 1,
        Protocol::SCTP => 2,
        _ => 3,
    }
}

/// What is said of each port: first port and who says it, from port 0 on. The strip of other protocols has one port.
pub(super) type Painted = [Vec<(u16, Says)>; STRIPS];

#[derive(Default)]
struct Strip {
    /// Open ports, first to last.
    open: BTreeMap<u16, u16>,
    done: BTreeMap<u16, Says>,
    aside: Vec<(u16, u16)>,
}

impl Strip {
    /// Takes what is open of a range.
    fn take(&mut self, first: u16, last: u16) -> Vec<(u16, u16)> {
        let before = self.open.range(..first).next_back().map(|(start, end)| (*start, *end));
        let overlaps = before.filter(|(_, end)| *end >= first);
        let inside: Vec<(u16, u16)> = overlaps
            .into_iter()
            .chain(self.open.range(first..=last).map(|(start, end)| (*start, *end)))
            .collect();
        let mut taken = Vec::with_capacity(inside.len());
        for (start, end) in inside {
            self.open.remove(&start);
            if start < first {
                self.open.insert(start, first - 1);
            }
            if end > last {
                self.open.insert(last + 1, end);
            }
            taken.push((start.max(first), end.min(last)));
        }
        taken
    }

    fn paint(&mut self, first: u16, last: u16, action: Action, says: Says) {
        for (start, end) in self.take(first, last) {
            match action {
                Action::Pass => self.aside.push((start, end)),
                _ => _ = self.done.insert(start, says),
            }
        }
    }

    fn put_back(&mut self) {
        self.open.extend(self.aside.drain(..));
    }
}

/// Paints the strokes, which come in order. `isolated`: a NetworkPolicy selects the pod.
pub(super) fn paint(strokes: &[Stroke], isolated: bool) -> Painted {
    let mut strips: [Strip; STRIPS] = Default::default();
    for (at, strip) in strips.iter_mut().enumerate() {
        strip.open.insert(0, if at == STRIPS - 1 { 0 } else { u16::MAX });
    }
    for stage in [Stage::Admin, Stage::Network, Stage::Baseline] {
        for stroke in strokes.iter().filter(|stroke| stroke.stage == stage) {
            let says = Says::Rule {
                allow: stroke.action == Action::Accept,
                policy: stroke.policy,
                at: stroke.at,
            };
            match &stroke.ports {
                None => strips
                    .iter_mut()
                    .for_each(|strip| strip.paint(0, u16::MAX, stroke.action, says)),
                Some(ports) => ports.iter().for_each(|(protocol, first, last)| {
                    strips[strip(*protocol)].paint(*first, *last, stroke.action, says);
                }),
            }
        }
        for strip in &mut strips {
            strip.put_back();
            if stage == Stage::Network && isolated {
                strip.paint(0, u16::MAX, Action::Deny, Says::Isolated);
            }
        }
    }
    strips.map(|mut strip| {
        strip.paint(0, u16::MAX, Action::Accept, Says::Nobody);
        let mut said: Vec<(u16, Says)> = strip.done.into_iter().collect();
        said.dedup_by_key(|(_, says)| *says);
        said
    })
}

/// Walks two strips side by side: each port from which one of them says something else.
pub(super) fn side_by_side(
    one: &[(u16, Says)],
    other: &[(u16, Says)],
    mut each: impl FnMut(u16, Says, Says),
) {
    let (mut a, mut b) = (0, 0);
    let mut at = 0;
    while let (Some((_, said)), Some((_, also))) = (one.get(a), other.get(b)) {
        each(at, *said, *also);
        let next = [one.get(a + 1), other.get(b + 1)].map(|next| next.map(|(first, _)| *first));
        let Some(first) = next.into_iter().flatten().min() else { return };
        a += usize::from(next[0] == Some(first));
        b += usize::from(next[1] == Some(first));
        at = first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stroke(stage: Stage, action: Action, at: u16, ports: Option<(u16, u16)>) -> Stroke {
        let ports = ports.map(|(first, last)| vec![(Protocol::TCP, first, last)]);
        Stroke { stage, action, policy: 7, at, ports }
    }

    fn rule(allow: bool, at: u16) -> Says {
        Says::Rule { allow, policy: 7, at }
    }

    #[test]
    fn the_first_to_paint_a_port_has_it() {
        let painted = paint(
            &[
                stroke(Stage::Network, Action::Accept, 0, Some((80, 90))),
                stroke(Stage::Network, Action::Accept, 1, Some((85, 100))),
                stroke(Stage::Network, Action::Accept, 2, Some((1, 1))),
            ],
            true,
        );
        let nothing = Says::Isolated;
        assert_eq!(
            painted[0],
            [
                (0, nothing),
                (1, rule(true, 2)),
                (2, nothing),
                (80, rule(true, 0)),
                (91, rule(true, 1)),
                (101, nothing)
            ]
        );
        assert_eq!(painted[1], [(0, nothing)]);
        assert_eq!(painted[3], [(0, nothing)]);
    }

    #[test]
    fn a_pass_goes_past_the_rest_of_its_tier() {
        let strokes = [
            stroke(Stage::Admin, Action::Pass, 0, Some((80, 80))),
            stroke(Stage::Admin, Action::Deny, 1, None),
            stroke(Stage::Baseline, Action::Deny, 2, Some((80, 80))),
        ];
        let open = paint(&strokes, false);
        assert_eq!(open[0], [(0, rule(false, 1)), (80, rule(false, 2)), (81, rule(false, 1))]);
        assert_eq!(open[3], [(0, rule(false, 1))]);
        let isolated = paint(&strokes[..2], true);
        assert_eq!(isolated[0][1], (80, Says::Isolated));
        assert_eq!(paint(&strokes[..1], false)[0], [(0, Says::Nobody)]);
    }

    #[test]
    fn two_strips_are_cut_where_either_is() {
        let one = [(0, Says::Nobody), (10, Says::Isolated)];
        let other = [(0, Says::Isolated), (5, Says::Nobody), (10, Says::Isolated)];
        let mut seen = Vec::new();
        side_by_side(&one, &other, |at, a, b| seen.push((at, a, b)));
        let (nobody, isolated) = (Says::Nobody, Says::Isolated);
        assert_eq!(seen, [(0, nobody, isolated), (5, nobody, nobody), (10, isolated, isolated)]);
    }
}
