//! What a guest can import beyond wasmtime-wasi's own: sockets on the pod's network (WASI 0.1's too), HTTP over it, walls round
//! its folders, and the stop contract.
//!
//! Owns: the host side of our interfaces. Is not: the store or its limits (`runtime`), nor the network itself (`net`).

pub mod account;
pub mod files;
pub mod http;
pub mod io;
pub mod lifecycle;
pub mod p1;
pub mod sockets;
