//! A tree in memory that can tear a write, hold it up, be damaged, and let something happen in the middle of a scan.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;

use bytes::Bytes;
use granary_store::{Error, Pairs, Tree};
use parking_lot::{Condvar, Mutex};

#[derive(Debug, Default)]
struct State {
    pairs: BTreeMap<Bytes, Bytes>,
    marker: Option<Bytes>,
    /// Writes stop after so many more pairs and markers, as a crash would stop them.
    tear_after: Option<usize>,
    held: bool,
}

impl State {
    /// Fails when the next pair or marker is the one that a crash prevents.
    fn tear(&mut self) -> Result<(), Error> {
        match &mut self.tear_after {
            Some(0) => Err(Error::Io("torn".to_owned())),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

type ScanHook = Box<dyn FnMut(usize) + Send>;

#[derive(Default)]
pub(crate) struct TestTree {
    state: Mutex<State>,
    released: Condvar,
    /// Called before a scan goes on, with how many pairs it gave; not in a scan that the hook begins.
    on_scan: Mutex<Option<ScanHook>>,
}

impl fmt::Debug for TestTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestTree").field("state", &self.state).finish_non_exhaustive()
    }
}

impl TestTree {
    /// Writes fail from the pair or marker on that comes after `pairs` more of them.
    pub(crate) fn tear_after(&self, pairs: usize) {
        self.state.lock().tear_after = Some(pairs);
    }

    /// Lets something happen in the middle of scans.
    pub(crate) fn on_scan(&self, hook: impl FnMut(usize) + Send + 'static) {
        *self.on_scan.lock() = Some(Box::new(hook));
    }

    pub(crate) fn forget_scan_hook(&self) {
        *self.on_scan.lock() = None;
    }

    fn scanned(&self, pairs: usize) {
        let hook = self.on_scan.lock().take();
        if let Some(mut hook) = hook {
            hook(pairs);
            *self.on_scan.lock() = Some(hook);
        }
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

    /// Removes the first pair behind everybody's back.
    pub(crate) fn lose_one(&self) -> (Bytes, Bytes) {
        self.state.lock().pairs.pop_first().expect("there is one")
    }

    /// Puts a pair behind everybody's back, perhaps in place of a newer one.
    pub(crate) fn put_back(&self, (key, value): (Bytes, Bytes)) {
        self.state.lock().pairs.insert(key, value);
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
        loop {
            // A lock a pair: readers come in between, as with a real engine.
            let mut state = self.state.lock();
            while state.held {
                self.released.wait(&mut state);
            }
            drop(state);
            let Some((key, value)) = pairs.next() else { break };
            assert!(key > last_key, "pairs come in key order");
            last_key = key.clone();
            let mut state = self.state.lock();
            state.tear()?;
            match value {
                Some(value) => state.pairs.insert(key, value),
                None => state.pairs.remove(&key),
            };
        }
        let mut state = self.state.lock();
        state.tear()?;
        state.marker = Some(Bytes::copy_from_slice(marker));
        Ok(())
    }

    fn marker(&self) -> Result<Option<Bytes>, Error> {
        let mut state = self.state.lock();
        // Asked at the opening: the crash is over.
        state.tear_after = None;
        Ok(state.marker.clone())
    }

    /// Pair by pair: what is written meanwhile is seen, as with a real engine.
    fn scan_within(&self, from: &[u8], prefix_len: usize) -> Pairs<'_> {
        let prefix = from[..prefix_len].to_vec();
        let mut after = Bound::Included(Bytes::copy_from_slice(from));
        let mut given = 0;
        Box::new(std::iter::from_fn(move || {
            self.scanned(given);
            let state = self.state.lock();
            let (key, value) = state.pairs.range((after.clone(), Bound::Unbounded)).next()?;
            if !key.starts_with(&prefix) {
                return None;
            }
            (after, given) = (Bound::Excluded(key.clone()), given + 1);
            Some(Ok((key.clone(), value.clone())))
        }))
    }

    fn clear(&self) -> Result<(), Error> {
        let mut state = self.state.lock();
        state.marker = None;
        state.pairs.clear();
        Ok(())
    }
}
