//! Generated messages and services, and their conversions to and from `granary-types`.
//!
//! [`v1`] is for users, [`internal`] for the nodes, routers and compactors of one cluster. Conversions from the
//! wire can fail and say what is wrong; nothing else in Granary parses protobuf.

pub mod convert;

// The nesting of the packages, as the generated code refers to itself by it.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::unwrap_used,
    clippy::large_futures,
    reason = "generated code"
)]
mod granary {
    pub mod v1 {
        tonic::include_proto!("granary.v1");
    }
    pub mod internal {
        pub mod v1 {
            tonic::include_proto!("granary.internal.v1");
        }
    }
}

/// What nodes, routers and compactors of one cluster say to each other, and what stands in Raft entries.
pub use granary::internal::v1 as internal;
/// What users call.
pub use granary::v1;

/// The file descriptors of all services, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The largest message between nodes and to clients, in bytes: a batch of 100 records of 350 KB each fits.
pub const MESSAGE_LEN_MAX: usize = 64 << 20;
