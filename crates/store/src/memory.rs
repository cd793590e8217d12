//! The engine for simulation and tests: maps in memory that can forget what was not flushed.
//!
//! Nothing reaches a disk. What a crash leaves is what [`MemoryEngine::flush`] (or a close) last made durable:
//! [`MemoryEngine::crash`] loses all later writes, markers with them; [`MemoryEngine::crash_torn`] keeps some
//! of them and a part of the pairs of the next, without their marker, which is the worst that the port allows.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use crate::chunked::{Chunk, ChunkedScan};
use crate::{Engine, Error, Pairs, Tree};

/// An engine in memory. Clones share their trees.
#[derive(Debug, Clone, Default)]
pub struct MemoryEngine {
    state: Arc<RwLock<State>>,
}

#[derive(Debug, Default)]
struct State {
    live: Trees,
    /// As of the last flush.
    durable: Trees,
    /// What was done since, in order.
    unflushed: Vec<Change>,
    closed: bool,
}

type Trees = BTreeMap<String, TreeData>;

#[derive(Debug, Clone, Default)]
struct TreeData {
    pairs: BTreeMap<Bytes, Bytes>,
    marker: Option<Bytes>,
}

/// One change to the tree of a name.
#[derive(Debug, Clone)]
enum Change {
    Pair(Arc<str>, Bytes, Option<Bytes>),
    Marker(Arc<str>, Bytes),
    Clear(Arc<str>),
    Drop(Arc<str>),
}

impl Change {
    fn apply(self, trees: &mut Trees) {
        match self {
            Self::Pair(name, key, Some(value)) => drop(tree_of(trees, &name).pairs.insert(key, value)),
            Self::Pair(name, key, None) => drop(tree_of(trees, &name).pairs.remove(&key)),
            Self::Marker(name, marker) => tree_of(trees, &name).marker = Some(marker),
            Self::Clear(name) => *tree_of(trees, &name) = TreeData::default(),
            Self::Drop(name) => drop(trees.remove(&*name)),
        }
    }
}

fn tree_of<'a>(trees: &'a mut Trees, name: &str) -> &'a mut TreeData {
    if !trees.contains_key(name) {
        trees.insert(name.to_owned(), TreeData::default());
    }
    trees.get_mut(name).expect("just put in")
}

impl State {
    fn change(&mut self, change: Change) -> Result<(), Error> {
        if self.closed {
            return Err(Error::Io("the engine is closed".into()));
        }
        change.clone().apply(&mut self.live);
        self.unflushed.push(change);
        Ok(())
    }

    fn flush(&mut self) {
        for change in std::mem::take(&mut self.unflushed) {
            change.apply(&mut self.durable);
        }
    }
}

impl MemoryEngine {
    /// An engine without trees.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes everything written so far durable.
    pub fn flush(&self) {
        self.state.write().flush();
    }

    /// The engine as it is found after a crash that lost everything since the last flush. Handles of this engine
    /// go on by themselves: a process that crashed is not asked any more.
    #[must_use]
    pub fn crash(&self) -> Self {
        Self::holding(self.state.read().durable.clone())
    }

    /// The engine as it is found after a crash in the middle of a write, some time after the last flush: everything
    /// before that write is there, each pair of it survived or did not, and its marker did not. One `seed`, one
    /// outcome.
    #[must_use]
    pub fn crash_torn(&self, seed: u64) -> Self {
        let state = self.state.read();
        let mut trees = state.durable.clone();
        let mut draws = Draws(seed);
        let reached = draws.below(state.unflushed.len().max(1));
        let reached = &state.unflushed[..reached];
        let whole = reached.iter().rposition(|change| !matches!(change, Change::Pair(..))).map_or(0, |last| last + 1);
        for (place, change) in reached.iter().enumerate() {
            if place < whole || draws.below(2) == 0 {
                change.clone().apply(&mut trees);
            }
        }
        Self::holding(trees)
    }

    /// The engine as it is found by the next process after [`Engine::close`].
    #[must_use]
    pub fn reopen(&self) -> Self {
        self.crash()
    }

    fn holding(trees: Trees) -> Self {
        let state = State { live: trees.clone(), durable: trees, ..State::default() };
        Self { state: Arc::new(RwLock::new(state)) }
    }
}

impl Engine for MemoryEngine {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn tree(&self, name: &str) -> Result<Arc<dyn Tree>, Error> {
        Ok(Arc::new(MemoryTree { name: name.into(), state: Arc::clone(&self.state) }))
    }

    fn drop_tree(&self, name: &str) -> Result<(), Error> {
        self.state.write().change(Change::Drop(name.into()))
    }

    fn close(&self) -> Result<(), Error> {
        let mut state = self.state.write();
        state.flush();
        state.closed = true;
        Ok(())
    }

    fn size_on_disk(&self) -> u64 {
        0
    }
}

#[derive(Debug)]
struct MemoryTree {
    name: Arc<str>,
    state: Arc<RwLock<State>>,
}

impl Tree for MemoryTree {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(self.state.read().live.get(&*self.name).and_then(|tree| tree.pairs.get(key)).cloned())
    }

    fn write(&self, pairs: &mut dyn Iterator<Item = (Bytes, Option<Bytes>)>, marker: &[u8]) -> Result<(), Error> {
        // One lock for each pair, as in a real engine: a reader sees pairs come one by one.
        for (key, value) in pairs {
            self.state.write().change(Change::Pair(Arc::clone(&self.name), key, value))?;
        }
        self.state.write().change(Change::Marker(Arc::clone(&self.name), Bytes::copy_from_slice(marker)))
    }

    fn marker(&self) -> Result<Option<Bytes>, Error> {
        Ok(self.state.read().live.get(&*self.name).and_then(|tree| tree.marker.clone()))
    }

    fn scan_within(&self, from: &[u8], prefix_len: usize) -> Pairs<'_> {
        Box::new(ChunkedScan::new(from, prefix_len, |from: &[u8], chunk: &mut Chunk| {
            if let Some(tree) = self.state.read().live.get(&*self.name) {
                for (key, value) in tree.pairs.range::<[u8], _>((Bound::Included(from), Bound::Unbounded)) {
                    if !chunk.push(key.clone(), value.clone()) {
                        break;
                    }
                }
            }
            Ok(())
        }))
    }

    fn clear(&self) -> Result<(), Error> {
        self.state.write().change(Change::Clear(Arc::clone(&self.name)))
    }
}

/// A seeded sequence (splitmix64), so that a torn crash can be repeated.
#[derive(Debug)]
struct Draws(u64);

impl Draws {
    /// A number below `bound`, which is small.
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        usize::try_from(mixed % bound as u64).expect("below a usize")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;

    #[test]
    fn conforms() {
        let last = RwLock::new(MemoryEngine::new());
        let open = || -> Arc<dyn Engine> {
            *last.write() = MemoryEngine::new();
            Arc::new(last.read().clone())
        };
        let reopen = |engine: Arc<dyn Engine>| -> Arc<dyn Engine> {
            engine.close().expect("memory closes");
            Arc::new(last.read().reopen())
        };
        conformance::run(&open, &reopen);
    }

    fn put(tree: &dyn Tree, keys: std::ops::Range<u8>, value: &'static str, marker: &[u8]) {
        let mut pairs = keys.map(|key| (Bytes::from(vec![key]), Some(Bytes::from(value))));
        tree.write(&mut pairs, marker).expect("memory writes");
    }

    fn content(engine: &MemoryEngine) -> (Vec<(Bytes, Bytes)>, Option<Bytes>) {
        let tree = engine.tree("t").expect("memory opens");
        let pairs = tree.scan(&[]).collect::<Result<_, _>>().expect("memory scans");
        (pairs, tree.marker().expect("memory reads"))
    }

    #[test]
    fn a_crash_forgets_what_was_not_flushed() {
        let engine = MemoryEngine::new();
        let tree = engine.tree("t").expect("memory opens");
        put(&*tree, 0..2, "old", b"1");
        engine.flush();
        let flushed = content(&engine);
        put(&*tree, 0..4, "new", b"2");
        assert_eq!(content(&engine.crash()), flushed);
        assert_eq!(content(&engine).1.as_deref(), Some(&b"2"[..]));
    }

    #[test]
    fn a_torn_crash_leaves_pairs_without_their_marker() {
        let engine = MemoryEngine::new();
        let tree = engine.tree("t").expect("memory opens");
        put(&*tree, 0..4, "old", b"1");
        engine.flush();
        put(&*tree, 0..4, "new", b"2");
        let mut parts = std::collections::BTreeSet::new();
        for seed in 0..50 {
            let (pairs, marker) = content(&engine.crash_torn(seed));
            assert_eq!(marker.as_deref(), Some(&b"1"[..]));
            assert_eq!(pairs.len(), 4);
            assert_eq!(content(&engine.crash_torn(seed)).0, pairs, "seed={seed}");
            parts.insert(pairs.iter().filter(|(_, value)| value == "new").count());
        }
        assert!(parts.len() > 2, "seeds differ: {parts:?}");
    }

    #[test]
    fn a_torn_crash_never_keeps_a_marker_over_a_cleared_tree() {
        let engine = MemoryEngine::new();
        let tree = engine.tree("t").expect("memory opens");
        put(&*tree, 0..4, "old", b"1");
        engine.flush();
        tree.clear().expect("memory clears");
        put(&*tree, 0..4, "new", b"9");
        for seed in 0..50 {
            let (pairs, marker) = content(&engine.crash_torn(seed));
            let whole = pairs.len() == 4 && pairs.iter().all(|(_, value)| value == "old");
            assert!(marker.is_none() || whole, "seed={seed} pairs={pairs:?}");
        }
    }
}
