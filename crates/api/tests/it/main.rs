//! The edge and the router against nodes that are played by the test: what is said on the wire, and what a router
//! does when nodes redirect, refuse, lose an answer or say nothing. Real nodes are under `tests/`.

mod cluster;
mod control_plane;
mod native;
mod routing;
mod sagemaker;
