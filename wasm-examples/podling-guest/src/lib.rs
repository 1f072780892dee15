//! What a guest asks of podling itself, beyond WASI: to hear the stop of its pod, and to end with an exit code.
//!
//! Not: anything the standard library does already (files, sockets, clocks).
//!
//! ```ignore
//! podling_guest::wait_for_stop();      // asks to hear the stop, and sleeps until it comes
//! podling_guest::exit(3);              // ends with code 3, as a component and as a wasip1 module alike
//! ```
//!
//! The interface itself is `wit/pod.wit`; it is imported only by guests that call [`stopping`] or [`wait_for_stop`].

/// Ends the guest with `code`.
///
/// `std::process::exit` keeps only "zero or not" on wasm32-wasip2, since WASI 0.2 began with no more than that.
/// Codes above 125 are kept for the runtime's own verdicts.
pub fn exit(code: u8) -> ! {
    #[cfg(target_env = "p2")]
    {
        use std::io::Write;
        // Nobody runs the standard library's exit handlers on this way out.
        let _ = std::io::stdout().flush();
        component::exit::wasi::cli::exit::exit_with_code(code);
    }
    std::process::exit(i32::from(code))
}

/// Whether the pod is being stopped. The first call asks to hear it: from then on the pod's grace period counts.
#[cfg(target_env = "p2")]
#[must_use]
pub fn stopping() -> bool {
    component::stop::podling::pod::lifecycle::terminating()
}

/// Sleeps until the pod is stopped.
#[cfg(target_env = "p2")]
pub fn wait_for_stop() {
    component::stop::podling::pod::lifecycle::subscribe().block();
}

#[cfg(target_env = "p2")]
mod component {
    pub(crate) mod stop {
        wit_bindgen::generate!({ world: "stoppable", path: "wit", generate_all });
    }
    pub(crate) mod exit {
        wit_bindgen::generate!({ world: "exiting", path: "wit", generate_all });
    }
}
