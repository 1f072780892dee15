//! `poll_oneoff` over clocks, sockets and wasmtime-wasi's descriptors, in any mixture.
//!
//! Owns: clocks and sockets. Is not: readiness of files and standard streams, which wasmtime-wasi is asked for in its own terms: a call of
//! its `poll_oneoff` on a memory of our own, with its numbers for the descriptors. It never gets a clock, because it
//! would sleep on the guest's thread.
//!
//! All that is ready when the call is made is told at once; otherwise the first that becomes ready ends the wait.
//! Limits: [`SUBSCRIPTIONS_MAX`] a call.

use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};
use wasmtime_wasi::WasiView as _;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p1::types::{Clockid, Errno, Error};
use wasmtime_wasi::p1::wasi_snapshot_preview1::{self, WasiSnapshotPreview1 as _};
use wiggle::GuestMemory;

use super::Preview1;
use super::fds::Fds;
use super::memory;
use crate::wasi::files::has_places;
use crate::wasi::io::WAIT_BYTES;

/// Subscriptions in one call: one each way for all descriptors that a module may have.
const SUBSCRIPTIONS_MAX: u32 = 16_384;

/// Sizes of the ABI's structures.
const SUBSCRIPTION: u32 = 48;
const EVENT: u32 = 32;

/// `eventtype`.
const CLOCK: u8 = 0;
const READ: u8 = 1;
const WRITE: u8 = 2;

/// `subclockflags`.
const ABSOLUTE: u16 = 1;

/// One subscription.
struct Wanted {
    userdata: [u8; 8],
    what: What,
}

enum What {
    Clock(Pin<Box<Sleep>>),
    /// Of wasmtime-wasi's: its number, and which way.
    Host(u32, u8),
    Socket(u32, u8),
    /// It cannot become ready; told at once.
    Never(u8, Errno),
}

impl Preview1 {
    /// `poll_oneoff`.
    pub(super) async fn poll(
        &mut self,
        mem: &mut GuestMemory<'_>,
        subscriptions: u32,
        events: u32,
        count: u32,
    ) -> Result<u32, Error> {
        if count == 0 || count > SUBSCRIPTIONS_MAX {
            return Err(Errno::Inval.into());
        }
        memory::range(memory::bytes(mem)?, events, (count * EVENT) as usize)?;
        let _held = self.walled.hold(WAIT_BYTES * u64::from(count))?;
        let mut wanted = Vec::with_capacity(count as usize);
        for n in 0..count {
            let at = subscriptions.checked_add(n * SUBSCRIPTION).ok_or(Errno::Overflow)?;
            wanted.push(self.wanted(mem, at)?);
        }
        let ready = self.first_ready(&mut wanted).await?;
        let mem = memory::bytes(mem)?;
        let mut told = 0;
        for (wanted, event) in wanted.iter().zip(ready) {
            if let Some((error, kind)) = event {
                let at = events + told * EVENT;
                put_event(mem, at, wanted.userdata, error, kind)?;
                told += 1;
            }
        }
        Ok(told)
    }

    fn wanted(&mut self, mem: &mut GuestMemory<'_>, at: u32) -> Result<Wanted, Error> {
        let bytes = memory::bytes(mem)?;
        let whole = memory::part(bytes, at, SUBSCRIPTION as usize)?;
        let userdata = [0, 1, 2, 3, 4, 5, 6, 7].map(|n| whole[n]);
        let (kind, fd) = (whole[8], memory::u32_at(bytes, at + 16)?);
        let what = match kind {
            CLOCK => self.clock(mem, at)?,
            READ | WRITE => match self.fds.host(fd, Errno::Notsock) {
                Ok(host) => What::Host(host, kind),
                Err(Errno::Notsock) => What::Socket(fd, kind),
                Err(error) => What::Never(kind, error),
            },
            _ => return Err(Errno::Inval.into()),
        };
        Ok(Wanted { userdata, what })
    }

    fn clock(&mut self, mem: &mut GuestMemory<'_>, at: u32) -> Result<What, Error> {
        let bytes = memory::bytes(mem)?;
        let id = memory::u32_at(bytes, at + 16)?;
        let timeout = memory::u64_at(bytes, at + 24)?;
        let absolute = memory::u16_at(bytes, at + 40)? & ABSOLUTE != 0;
        let id = match id {
            0 => Clockid::Realtime,
            1 => Clockid::Monotonic,
            _ => return Ok(What::Never(CLOCK, Errno::Inval)),
        };
        let wait = if absolute {
            timeout.saturating_sub(self.wasi.clock_time_get(mem, id, 0)?)
        } else {
            timeout
        };
        Ok(What::Clock(Box::pin(sleep(Duration::from_nanos(wait)))))
    }

    /// Waits until something is ready; for each subscription, the event if there is one.
    async fn first_ready(
        &mut self,
        wanted: &mut [Wanted],
    ) -> Result<Vec<Option<(Errno, u8)>>, Error> {
        let Self { wasi, fds, .. } = self;
        let of_host = |(place, wanted): (usize, &Wanted)| match wanted.what {
            What::Host(host, kind) => Some((place, host, kind)),
            What::Clock(_) | What::Socket(..) | What::Never(..) => None,
        };
        let mut host = HostPoll::new(wanted.iter().enumerate().filter_map(of_host));
        // It keeps two things for each as long as it waits: the table of a module that waits for a thousand files may be full of them.
        let places = host.as_ref().map_or(0, |host| 2 * host.count as usize);
        if !has_places(wasi.ctx().table, places) {
            return Err(Errno::Nomem.into());
        }
        let mut ask = pin!(async {
            match &mut host {
                Some(host) => host.ask(wasi).await,
                None => std::future::pending().await,
            }
        });
        let mut ready = vec![None; wanted.len()];
        let told = std::future::poll_fn(|cx| {
            let mut any = false;
            let mut told = None;
            if let Poll::Ready(answer) = ask.as_mut().poll(cx) {
                told = Some(answer?);
                any = true;
            }
            for (wanted, ready) in wanted.iter_mut().zip(&mut ready) {
                *ready = wanted.poll(fds, cx);
                any |= ready.is_some();
            }
            if any { Poll::Ready(Ok(told)) } else { Poll::Pending }
        });
        let told: Result<Option<Vec<(usize, Errno)>>, Error> = told.await;
        for (place, error) in told?.unwrap_or_default() {
            if let (Some(slot), What::Host(_, kind)) = (ready.get_mut(place), &wanted[place].what) {
                *slot = Some((error, *kind));
            }
        }
        Ok(ready)
    }
}

impl Preview1 {
    /// Whether a read from one of wasmtime-wasi's descriptors would not wait.
    pub(super) async fn is_readable(&mut self, host: u32) -> Result<bool, Error> {
        let Some(mut poll) = HostPoll::new(std::iter::once((0, host, READ))) else {
            return Ok(true);
        };
        let answer = {
            let mut ask = pin!(poll.ask(&mut self.wasi));
            // Asked once. What is registered by that wakes us for nothing at worst.
            std::future::poll_fn(|cx| Poll::Ready(ask.as_mut().poll(cx))).await
        };
        // Asking has used up what the call may hand over.
        self.wasi.set_hostcall_fuel(self.hostcall_fuel);
        match answer {
            Poll::Ready(answer) => Ok(!answer?.is_empty()),
            Poll::Pending => Ok(false),
        }
    }
}

impl Wanted {
    fn poll(&mut self, fds: &mut Fds, cx: &mut Context<'_>) -> Option<(Errno, u8)> {
        let ready = match &mut self.what {
            What::Host(..) => Poll::Pending,
            What::Never(kind, error) => return Some((*error, *kind)),
            What::Clock(sleep) => {
                return sleep.as_mut().poll(cx).is_ready().then_some((Errno::Success, CLOCK));
            }
            What::Socket(fd, kind) => match fds.if_socket(*fd) {
                Some(socket) if *kind == READ => socket.poll_readable(cx),
                Some(socket) => socket.poll_writable(cx),
                None => return Some((Errno::Badf, *kind)),
            },
        };
        let What::Socket(_, kind) = &self.what else { return None };
        ready.is_ready().then_some((Errno::Success, *kind))
    }
}

fn put_event(
    mem: &mut [u8],
    at: u32,
    userdata: [u8; 8],
    error: Errno,
    kind: u8,
) -> Result<(), Errno> {
    let mut event = [0; EVENT as usize];
    event[..8].copy_from_slice(&userdata);
    event[8..10].copy_from_slice(&u16::from(error).to_le_bytes());
    event[10] = kind;
    // At least one byte, as far as anybody can tell without taking it.
    event[16] = u8::from(kind != CLOCK && error == Errno::Success);
    memory::put(mem, at, &event)
}

/// A call of wasmtime-wasi's `poll_oneoff`, on a memory of its own.
struct HostPoll {
    /// Subscriptions, events, and the number of events.
    memory: Vec<u8>,
    count: u32,
}

impl HostPoll {
    /// Asks for those of wasmtime-wasi's (number, and which way) that are wanted; each has its place in the list as its userdata.
    fn new(wanted: impl Iterator<Item = (usize, u32, u8)>) -> Option<Self> {
        let mut memory = Vec::new();
        let mut count = 0;
        for (place, host, kind) in wanted {
            let mut subscription = [0; SUBSCRIPTION as usize];
            subscription[..8].copy_from_slice(&(place as u64).to_le_bytes());
            subscription[8] = kind;
            subscription[16..20].copy_from_slice(&host.to_le_bytes());
            memory.extend_from_slice(&subscription);
            count += 1;
        }
        memory.resize(((SUBSCRIPTION + EVENT) * count + 8) as usize, 0);
        (count > 0).then_some(Self { memory, count })
    }

    /// The places of those that are ready.
    async fn ask(&mut self, wasi: &mut WasiP1Ctx) -> Result<Vec<(usize, Errno)>, Error> {
        let events = SUBSCRIPTION * self.count;
        let number = events + EVENT * self.count;
        let signed = |at: u32| at.cast_signed();
        wasi.set_hostcall_fuel(self.memory.len());
        let mut memory = GuestMemory::Unshared(&mut self.memory);
        let errno = wasi_snapshot_preview1::poll_oneoff(
            wasi,
            &mut memory,
            0,
            signed(events),
            signed(self.count),
            signed(number),
        );
        let errno = errno.await.map_err(Error::trap)?;
        if let Some(error) = u16::try_from(errno).ok().filter(|&errno| errno != 0) {
            return Err(Errno::try_from(error).unwrap_or(Errno::Io).into());
        }
        let told = memory::u32_at(&self.memory, number)?;
        (0..told.min(self.count))
            .map(|n| {
                let at = events + n * EVENT;
                let place = memory::u64_at(&self.memory, at)?;
                let error = Errno::try_from(memory::u16_at(&self.memory, at + 8)?);
                let place = usize::try_from(place).map_err(|_| Errno::Overflow)?;
                Ok((place, error.unwrap_or(Errno::Io)))
            })
            .collect::<Result<_, Errno>>()
            .map_err(Error::from)
    }
}
