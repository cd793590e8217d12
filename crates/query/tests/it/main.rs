//! The query service over a warehouse in a temporary directory, called as clients call it: through gRPC.

mod offline_wait;
mod point_in_time;
mod sql;
mod world;
