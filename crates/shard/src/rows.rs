//! Where a cell is looked for: memory table, then row cache, then tree.

use bytes::Bytes;

use crate::Error;
use crate::apply::Rows;
use crate::store::Inner;

impl Rows for Inner {
    /// The newest cell of the key. Never waits for the checkpointer.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        // The ticket comes before the look into the memory table: see `row_cache`.
        let ticket = self.cache.ticket(key);
        if let Some(cell) = self.memory.read().get(key) {
            return Ok(Some(cell));
        }
        if let Some(cell) = self.cache.get(key, ticket) {
            return Ok(Some(cell));
        }
        let cell = self.tree.get(key)?;
        if let Some(cell) = &cell {
            self.cache.fill(Bytes::copy_from_slice(key), cell.clone(), ticket);
        }
        Ok(cell)
    }

    fn put(&self, key: Bytes, cell: Bytes) {
        self.memory.write().put(key, cell);
    }
}
