//! A tree in memory that can tear a write, hold it up, and be damaged.

use std::collections::BTreeMap;

use bytes::Bytes;
use granary_store::{Error, Pairs, Tree};
use parking_lot::{Condvar, Mutex};

#[derive(Debug, Default)]
struct State {
    pairs: BTreeMap<Bytes, Bytes>,
    marker: Option<Bytes>,
    /// The next write stops after so many pairs, as a crash would stop it.
    tear_after: Option<usize>,
    held: bool,
}

#[derive(Debug, Default)]
pub(crate) struct TestTree {
    state: Mutex<State>,
    released: Condvar,
}

impl TestTree {
    /// The next write stops after `pairs` pairs and fails.
    pub(crate) fn tear_after(&self, pairs: usize) {
        self.state.lock().tear_after = Some(pairs);
    }

    /// Writes wait until [`Self::release`].
    pub(crate) fn hold(&self) {
        self.state.lock().held = true;
    }

    pub(crate) fn release(&self) {
        self.state.lock().held = false;
        self.released.notify_all();
    }

    /// Flips a bit in the last byte of every value.
    pub(crate) fn damage(&self) {
        for value in self.state.lock().pairs.values_mut() {
            let mut damaged = value.to_vec();
            *damaged.last_mut().expect("a cell is not empty") ^= 1;
            *value = damaged.into();
        }
    }

    /// Removes one pair behind everybody's back.
    pub(crate) fn lose_one(&self) {
        self.state.lock().pairs.pop_first().expect("there is one");
    }

    pub(crate) fn len(&self) -> usize {
        self.state.lock().pairs.len()
    }
}

impl Tree for TestTree {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(self.state.lock().pairs.get(key).cloned())
    }

    fn write(&self, pairs: &mut dyn Iterator<Item = (Bytes, Option<Bytes>)>, marker: &[u8]) -> Result<(), Error> {
        let mut last_key = Bytes::new();
        let mut written = 0;
        loop {
            // A lock a pair: readers come in between, as with a real engine.
            let mut state = self.state.lock();
            while state.held {
                self.released.wait(&mut state);
            }
            if state.tear_after == Some(written) {
                return Err(Error::Io("torn".to_owned()));
            }
            drop(state);
            let Some((key, value)) = pairs.next() else { break };
            assert!(key > last_key, "pairs come in key order");
            last_key = key.clone();
            let mut state = self.state.lock();
            match value {
                Some(value) => state.pairs.insert(key, value),
                None => state.pairs.remove(&key),
            };
            written += 1;
        }
        let mut state = self.state.lock();
        // Fewer pairs than asked for: torn between the last pair and the marker.
        if state.tear_after.is_some() {
            return Err(Error::Io("torn".to_owned()));
        }
        state.marker = Some(Bytes::copy_from_slice(marker));
        Ok(())
    }

    fn marker(&self) -> Result<Option<Bytes>, Error> {
        let mut state = self.state.lock();
        // Asked at the opening: the crash is over.
        state.tear_after = None;
        Ok(state.marker.clone())
    }

    fn scan(&self, from: &[u8]) -> Pairs<'_> {
        let state = self.state.lock();
        let pairs: Vec<_> = state
            .pairs
            .range(Bytes::copy_from_slice(from)..)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        Box::new(pairs.into_iter().map(Ok))
    }

    fn clear(&self) -> Result<(), Error> {
        let mut state = self.state.lock();
        state.marker = None;
        state.pairs.clear();
        Ok(())
    }
}
