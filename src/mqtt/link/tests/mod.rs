//! Every guard of the link against a broker that does what no real one would, on loopback and in virtual time.

mod dead;
mod fake;
mod odd;
mod order;
mod secure;
