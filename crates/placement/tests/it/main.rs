//! Tests of the placement rules through their public interface.

mod planner;
mod replicas;
mod slots;
