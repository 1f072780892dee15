//! What this machine can give the engine: address space, memory, cores.
//!
//! Owns: the probes. Is not: the choice made from them ([`super::engine::EngineSettings::choose`]), which takes a
//! [`Machine`] as a value, so that tests choose for machines we do not have.

use std::fmt;

/// The facts that decide how memories are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Physical memory, bytes; 0 if unknown.
    pub ram_bytes: u64,
    /// Usable bits of a user address: 47 on most 64-bit machines, 39 on many single-board computers, 32 or less on armv7.
    pub address_bits: u32,
    /// `ulimit -v`, bytes; `None`: unlimited.
    pub address_space_limit: Option<u64>,
    /// `vm.overcommit_memory` is 2: the kernel refuses what it cannot back.
    pub strict_overcommit: bool,
    /// Cores this process may run on.
    pub cores: usize,
}

impl Machine {
    /// Looks at the machine we are on. What cannot be read is taken as the small case.
    #[must_use]
    pub fn probe() -> Self {
        let info = rustix::system::sysinfo();
        let ram_bytes = widen(info.totalram).saturating_mul(u64::from(info.mem_unit.max(1)));
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let overcommit = std::fs::read_to_string("/proc/sys/vm/overcommit_memory");
        Self {
            ram_bytes,
            address_bits: address_bits(&maps),
            address_space_limit: rustix::process::getrlimit(rustix::process::Resource::As).current,
            strict_overcommit: overcommit.is_ok_and(|mode| mode.trim() == "2"),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} MiB of memory, {} cores, {}-bit addresses",
            self.ram_bytes >> 20,
            self.cores,
            self.address_bits
        )?;
        if let Some(limit) = self.address_space_limit {
            write!(f, ", ulimit -v {} MiB", limit >> 20)?;
        }
        if self.strict_overcommit {
            write!(f, ", strict overcommit")?;
        }
        Ok(())
    }
}

/// Bits of the highest user address in use: the stack lies at the top of the user's half, so the highest mapping below
/// the kernel's tells how wide that half is.
fn address_bits(maps: &str) -> u32 {
    let top_user = if cfg!(target_pointer_width = "64") { 1 << 56 } else { u64::from(u32::MAX) };
    let highest = maps
        .lines()
        .filter_map(|line| u64::from_str_radix(line.split('-').next()?, 16).ok())
        .filter(|&start| start < top_user)
        .max();
    highest.map_or(32, |address| u64::BITS - address.leading_zeros())
}

/// `sysinfo` counts in the machine's own word.
#[allow(clippy::useless_conversion, reason = "a 32-bit word on armv7, a 64-bit one elsewhere")]
fn widen(word: std::ffi::c_ulong) -> u64 {
    u64::from(word)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_stack_tells_how_wide_addresses_are() {
        let desktop = "555500000000-555500010000 r-xp x\n7ffc5d1e8000-7ffc5d209000 rw-p [stack]\n\
                       ffffffffff600000-ffffffffff601000 --xp [vsyscall]\n";
        assert_eq!(address_bits(desktop), 47);
        assert_eq!(address_bits("7fd1e8a000-7fd1ecb000 rw-p 00000000 00:00 0 [stack]\n"), 39);
        assert_eq!(address_bits("be8a0000-be8c1000 rw-p 00000000 00:00 0 [stack]\n"), 32);
        assert_eq!(address_bits("no maps at all"), 32);
    }

    #[test]
    fn this_machine_has_memory_and_cores() {
        let machine = Machine::probe();
        assert!(machine.ram_bytes > 1 << 20, "{machine}");
        assert!(machine.cores >= 1);
    }
}
