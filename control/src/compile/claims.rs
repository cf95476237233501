//! Who owns a frontend that several services ask for.
//!
//! The API server keeps cluster IPs and node ports unique, external and load balancer addresses are anybody's. One
//! service must not take over another's traffic by naming its address (CVE-2020-8554), and the outcome must not depend
//! on the order of events: the kind that the cluster allocates itself comes first, then the older object, then the key.

use std::collections::{BTreeMap, BTreeSet};

use millrace_tables::{FrontendKind, FrontendSpec};
use millrace_wire::Addr;

use super::{Part, Place, place};

/// A frontend that is asked for more than once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// Address, port (host order) and IP protocol number.
    pub frontend: (Addr, u16, u8),
    /// Key of the service that has it.
    pub owner: String,
    /// Key of one that doesn't.
    pub refused: String,
}

/// All that services ask for.
#[derive(Debug, Default)]
pub(super) struct Claims {
    all: BTreeMap<Place, BTreeSet<Claim>>,
    /// Those with more than one claim, so that a report doesn't cost what there is.
    contested: BTreeSet<Place>,
}

/// Ordered by right.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    rank: u8,
    created: i64,
    key: String,
}

impl Claims {
    /// Enters a part's claims. Keys that lose a frontend by it are added to `affected`.
    pub(super) fn take(&mut self, part: &Part, affected: &mut BTreeSet<String>) {
        for frontend in &part.spec.frontends {
            let place = place(frontend);
            let claims = self.all.entry(place).or_default();
            affected.extend(claims.first().map(|claim| claim.key.clone()));
            claims.insert(claim(part, frontend));
            if claims.len() > 1 {
                self.contested.insert(place);
            }
        }
    }

    /// Withdraws a part's claims. Keys that gain a frontend by it are added to `affected`.
    pub(super) fn release(&mut self, part: &Part, affected: &mut BTreeSet<String>) {
        for frontend in &part.spec.frontends {
            let place = place(frontend);
            let Some(claims) = self.all.get_mut(&place) else { continue };
            claims.remove(&claim(part, frontend));
            affected.extend(claims.first().map(|claim| claim.key.clone()));
            if claims.len() < 2 {
                self.contested.remove(&place);
            }
            if claims.is_empty() {
                self.all.remove(&place);
            }
        }
    }

    /// The key that has the frontend.
    pub(super) fn owner(&self, frontend: &FrontendSpec) -> Option<&String> {
        Some(&self.all.get(&place(frontend))?.first()?.key)
    }

    pub(super) fn conflicts(&self) -> impl Iterator<Item = Conflict> + '_ {
        self.contested.iter().flat_map(|place| {
            let mut claims = self.all.get(place).into_iter().flatten();
            let owner = claims.next().map(|claim| claim.key.clone()).unwrap_or_default();
            claims.map(move |claim| Conflict {
                frontend: *place,
                owner: owner.clone(),
                refused: claim.key.clone(),
            })
        })
    }
}

fn claim(part: &Part, frontend: &FrontendSpec) -> Claim {
    let rank = match frontend.kind {
        FrontendKind::CLUSTER_IP => 0,
        FrontendKind::NODE_PORT => 1,
        FrontendKind::LOAD_BALANCER => 2,
        FrontendKind::HOST_PORT => 4,
        _ => 3,
    };
    Claim { rank, created: part.created.unwrap_or(i64::MAX), key: part.key.clone() }
}
