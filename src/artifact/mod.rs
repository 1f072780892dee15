//! Brings artifacts (modules, and differences between them) to this node: by digest, from wherever they are.
//!
//! Owns: the ways here. Not: where they are kept (`image`), nor who wants them.

pub mod block;
pub mod pull;
pub mod request;
pub mod serve;
