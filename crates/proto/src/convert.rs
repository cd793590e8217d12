//! Conversions between wire messages and `granary-types`. From the wire they can fail, naming the field.

mod error;
mod feature_group;
mod write;

pub use error::{kind_code, kind_of_code, kind_of_status, status_of};
pub use feature_group::{
    feature_group_from_wire, feature_group_to_wire, features_from_wire, ttl_from_wire, ttl_to_wire,
};
pub use write::{
    cluster_from_wire, cluster_to_wire, stream_from_wire, stream_to_wire, u128_from_wire, u128_to_wire,
    write_from_wire, write_to_wire,
};
