//! The compactor: from the shards' change logs into the offline tables, each event exactly once.
//!
//! It is crash-only: it keeps nothing on disk and may be killed anywhere. One round is:
//!
//! 1. read sealed segments from any replica of each shard;
//! 2. for each table with events among them, read the streams' offsets *from the table* and drop what is committed;
//! 3. write Parquet files, then commit them together with the new offsets, which fails if an offset has moved;
//! 4. read the offsets back from the commit, and only then acknowledge to the shards, which trim.
//!
//! So CP-1 holds whatever dies when, and two compactors at once are safe, only wasteful: one of them commits, the other
//! is told that an offset moved, forgets its round and begins anew. A commit whose outcome was not told is looked up in
//! the table and never repeated blindly. Whatever goes wrong, the answer is the same: forget, wait a little, start from
//! the offsets.
//!
//! A replica that does not answer is not among what goes wrong: the next one is asked at once, what is held stays held
//! and is flushed in time, and the node is left alone for a while.
//!
//! What a stream's offset in a table means: the table holds every event of its feature group up to that sequence
//! number. It is the number of the group's last event in a flush, so a group without events has no commits. What all
//! tables together hold is what the shard's trimmed sequence says (CL-3).
//!
//! A table that was deleted, cut or put back older must not begin anew in silence. The shards know the last trimmed
//! event of each feature group; a table whose offset lies below it is not written to ([`Error::LostHistory`]) until its
//! history is back or an operator gave it up ([`give_up`]). Tables without new events are looked at in turn.
//!
//! Tables of groups that ask for it are shown as Iceberg tables too, from the group's creation on, behind the flushes and without a
//! say in them. Files that
//! other programs wrote into a table's directory are looked for beside them.
//!
//! Not here: the table's format (`granary-offline-store`), rewriting small files, retention.

mod error;
mod flush;
mod foreign;
mod founding;
mod health;
mod iceberg;
mod loss;
mod marks;
mod metrics;
mod nodes;
mod run;
mod segments;
mod settings;
mod tables;
mod tail;

pub use error::Error;
pub use loss::{Lost, give_up, lost_history};
pub use run::Compactor;
pub use settings::{Settings, Step, StepHook};
