//! Which sets of pods a pod is in, at a cost that doesn't grow with the sets it has nothing to do with.
//!
//! Each set lies in one bucket: by its namespace, and by one label that all its pods must have, as far as its selectors say so. A pod
//! looks into the buckets of its namespace and labels, and asks each set there. Sets that require no label of their pods lie in their
//! namespace's bucket, or in the common one: those are asked for every pod there.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
};

use crate::desired::{
    policy::{Namespaces, PodSet},
    selector::Labels,
};

/// Numbers of sets by bucket. Buckets are known by their hash alone: who finds a set there asks it anyway.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    buckets: HashMap<u64, Vec<u32>>,
    hasher: RandomState,
}

/// What a set's pods have in common.
type Common<'a> = (Option<&'a str>, Option<(&'a str, &'a str)>, Option<(&'a str, &'a str)>);

impl Buckets {
    fn bucket(&self, common: Common<'_>) -> u64 {
        self.hasher.hash_one(common)
    }

    fn common(set: &PodSet) -> Common<'_> {
        match &set.namespaces {
            Namespaces::Named(name) => (Some(name), None, set.pods.required()),
            Namespaces::Labelled(selector) => match set.pods.required() {
                Some(label) => (None, None, Some(label)),
                None => (None, selector.required(), None),
            },
        }
    }

    pub(super) fn insert(&mut self, number: u32, set: &PodSet) {
        let bucket = self.bucket(Self::common(set));
        self.buckets.entry(bucket).or_default().push(number);
    }

    pub(super) fn remove(&mut self, number: u32, set: &PodSet) {
        let bucket = self.bucket(Self::common(set));
        if let Some(numbers) = self.buckets.get_mut(&bucket) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.buckets.remove(&bucket);
            }
        }
    }

    /// Numbers of sets that a pod may be in, each once; `is_in` says whether it is. Sorted.
    pub(super) fn of_pod(
        &self,
        namespace: &str,
        its_labels: &Labels,
        labels: &Labels,
        mut is_in: impl FnMut(u32) -> bool,
    ) -> Box<[u32]> {
        let mut found = Vec::new();
        let mut look = |common: Common<'_>| {
            let numbers = self.buckets.get(&self.bucket(common));
            found.extend(numbers.into_iter().flatten().copied().filter(|number| is_in(*number)));
        };
        look((Some(namespace), None, None));
        look((None, None, None));
        for label in labels.iter() {
            look((Some(namespace), None, Some(label)));
            look((None, None, Some(label)));
        }
        its_labels.iter().for_each(|label| look((None, Some(label), None)));
        found.sort_unstable();
        // Two buckets of one hash.
        found.dedup();
        found.into()
    }
}
