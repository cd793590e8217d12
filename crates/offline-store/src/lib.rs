//! The offline store: the whole history of every feature group in one Delta table each, on any object store.
//!
//! A [`Warehouse`] is the root of an object store; an [`OfflineTable`] is one feature group's table in it. The
//! compactor writes rows into Parquet files ([`OfflineTable::write_files`]) and commits the files of a flush together
//! with the change-log offsets they reach ([`OfflineTable::append`]); the query service reads
//! ([`OfflineTable::delta`]). Files that other programs wrote below a table become part of it by
//! [`OfflineTable::take_in_foreign_files`]. A group that asks for it has its table shown as an Iceberg table too
//! ([`OfflineTable::publish_iceberg`]), and takes over the properties that Iceberg's clients set
//! ([`OfflineTable::adopt_iceberg_properties`]). Columns, directories and commit are described in `docs/formats/offline-table.md`.
//!
//! Not here: when to flush, what to acknowledge (`granary-compactor`), SQL (`granary-query`), rewriting small files,
//! vacuum. A file that was written but not committed, because its writer died, belongs to no table version: no
//! reader sees it, and a later vacuum may remove it.
//!
//! Keeps CP-1 (committed rows are the change log up to the committed offset, each once) and CP-2 (offsets come from
//! commits only and never retreat); gives CL-3 its ground: [`OfflineTable::durable_offsets`] says only what stands in
//! a commit that survives a power cut.

mod batch;
mod bucket;
mod commit;
mod durable;
mod error;
mod foreign;
mod iceberg;
mod layout;
mod parquet_file;
mod schema;
mod settings;
mod table;
mod warehouse;

pub use batch::{OfflineRow, Operation, record_batch};
pub use commit::{OffsetMove, Outcome};
pub use error::Error;
pub use foreign::{TakenIn, Verdicts, is_data};
pub use iceberg::is_proposal;
pub use layout::is_file_name;
pub use layout::{directory, file_name};
pub use parquet_file::WrittenFile;
pub use schema::{
    API_INVOCATION_TIME, EVENT_NANOS, EVENT_TIME, IS_DELETED, OPERATION, SEQUENCE, STREAM, WRITE_ID, WRITE_STAMP,
    WRITE_TIME, arrow_schema,
};
pub use settings::{Options, Settings};
pub use table::OfflineTable;
pub use warehouse::Warehouse;
