//! Prints an error with its causes, once, at the edge.
//!
//! Our error types name the deed and its subject and attach their cause; they do not paste it. Whoever finally shows an
//! error to a person wraps it in [`Chain`].

use std::error::Error;
use std::fmt;

/// Displays `error: cause: cause of the cause`.
#[derive(Debug)]
pub struct Chain<'a>(pub &'a (dyn Error + 'a));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// The chain as one line of text, for statuses and events.
#[must_use]
pub fn chain(error: &(dyn Error + '_)) -> String {
    Chain(error).to_string()
}
