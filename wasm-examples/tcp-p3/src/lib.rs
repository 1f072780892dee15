//! The rules of TCP in `wasi:sockets` 0.3, each checked from inside: one case a run.
//!
//! args: `tcp-p3 CASE`, or `tcp-p3 list` for the names of all cases
//! Prints `ok CASE`; what differs is a panic that names the line. exit codes: 0; 134 differs; 1 no such case.
//!
//! A case needs nobody else. Names are those of the cases that wasmtime-wasi runs against itself.

mod options;
mod tcp;

guest_p3::cases! {
    tcp_bind: tcp::bind,
    tcp_busy_poll: tcp::busy_poll,
    tcp_connect: tcp::connect,
    tcp_listen: tcp::listen_implicitly,
    tcp_sample_application: tcp::sample_application,
    tcp_sockopts: options::tcp,
    tcp_states: tcp::states,
    tcp_streams: tcp::streams,
}
