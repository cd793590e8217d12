//! The store under apply as its users see it: only the public API, over a tree that can be torn and damaged.

mod commands;
mod concurrency;
mod damage;
mod expiry;
mod limits;
mod list;
mod pinned;
mod purity;
mod replay;
mod tree;
mod updates;
