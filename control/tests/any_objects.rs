//! The fuzzer's check of objects (`dataplane/fuzz`), over its corpus and a fixed number of mutated inputs.

#[path = "../../dataplane/fuzz/src/objects.rs"]
mod objects;
#[path = "../../dataplane/fuzz/src/replay.rs"]
mod replay;

use std::path::Path;

#[test]
fn objects_of_any_text_are_refused_or_compiled() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dataplane/fuzz/corpus/objects");
    let corpus = replay::corpus(&folder);
    let asked: usize = corpus.iter().map(|(_, bytes)| objects::check(bytes)).sum();
    assert!(asked > 100, "the corpus decides something: {asked}");
    replay::mutations(&corpus, 1, 1500, |bytes| _ = objects::check(bytes));
}
