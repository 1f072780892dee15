//! The stacks that guests run on, on their modules' memory accounts.
//!
//! Owns: making stacks, measuring how far down each has been used, and charging for it. Is not: the account (`ledger.rs`), nor how deep a
//! guest may call (`engine.rs`).
//!
//! ```text
//!  a call begins, or a task ──► new_stack ──► BASE_BYTES charged ──► it runs, pages come to be ──► look ──► what is more is charged
//!                                  └─ refused: the call fails, the module ends                       └─ refused: the module ends
//! ```
//! Of a stack only those pages take memory that were touched, and they do until the stack goes. The kernel knows them (mincore(2)). A look
//! costs well under a microsecond for each stack of the store. There is one at each tick of a turn, one when a new stack is made, and one after turns
//! that took [`LOOK_NS`] together; so what is not yet charged was touched within that time, or in a turn since the last tick.
//!
//! Where the kernel does not tell (some sandboxes answer the same for all pages), and of the interpreter's own stacks, which are in the
//! heap, the most that a guest can use is charged from the beginning.
//!
//! A module that has no memory for its stack ends, whatever its manifest says of its memory limit: no language has an error for it.

#![allow(
    unsafe_code,
    reason = "memory for stacks comes from the kernel; each mapping is this file's own until its stack is gone"
)]

use std::cell::RefCell;
use std::ffi::c_void;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use wasmtime::{StackCreator, StackMemory};

use super::ledger::{Ledger, OverLimit};
use super::limiter::OutOfMemory;

/// What of each stack counts from its first moment: programs that do not recurse use less, host functions included.
pub(crate) const BASE_BYTES: usize = 64 << 10;

/// Time in a store's turns after which its stacks are looked at, nanoseconds. In so much time a guest can touch some two hundred pages.
const LOOK_NS: u64 = 50_000;

/// Pages asked for in one call.
const PAGES: usize = 512;

/// The stacks of one store.
#[derive(Debug)]
pub(crate) struct StoreStacks {
    ledger: Arc<Ledger>,
    list: Mutex<Vec<Counted>>,
    /// Time in turns since the last look.
    ran_ns: AtomicU64,
}

/// A stack, and how much of it is on the account.
#[derive(Debug)]
struct Counted {
    mapping: Arc<Mapping>,
    bytes: usize,
    /// Bytes beside it: what cannot be measured.
    beside: usize,
}

impl StoreStacks {
    pub(crate) fn new(ledger: Arc<Ledger>) -> Arc<Self> {
        Arc::new(Self { ledger, list: Mutex::default(), ran_ns: AtomicU64::new(0) })
    }

    fn list(&self) -> MutexGuard<'_, Vec<Counted>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Charges what the stacks have come to use.
    ///
    /// # Errors
    /// [`OverLimit`]: the module is to end.
    pub(crate) fn look(&self) -> Result<(), OverLimit> {
        self.ran_ns.store(0, Ordering::Relaxed);
        for stack in &mut *self.list() {
            let touched = stack.mapping.touched(stack.bytes);
            self.ledger.charge((touched - stack.bytes) as u64)?;
            stack.bytes = touched;
        }
        Ok(())
    }

    fn ran(&self, ns: u64) -> Result<(), OverLimit> {
        if self.ran_ns.fetch_add(ns, Ordering::Relaxed) + ns < LOOK_NS {
            return Ok(());
        }
        self.look()
    }

    fn add(&self, mapping: Arc<Mapping>, beside: usize) -> Result<(), OverLimit> {
        let bytes = BASE_BYTES.min(mapping.bytes());
        self.ledger.charge((bytes + beside) as u64)?;
        self.list().push(Counted { mapping, bytes, beside });
        Ok(())
    }

    fn remove(&self, mapping: &Arc<Mapping>) {
        let mut list = self.list();
        if let Some(at) = list.iter().position(|stack| Arc::ptr_eq(&stack.mapping, mapping)) {
            let gone = list.swap_remove(at);
            self.ledger.release((gone.bytes + gone.beside) as u64);
        }
    }
}

thread_local! {
    /// The store that works on this thread.
    static HERE: RefCell<Option<Arc<StoreStacks>>> = const { RefCell::new(None) };
    /// Those that have worked in the turn in progress.
    static WORKED: RefCell<Vec<Arc<StoreStacks>>> = const { RefCell::new(Vec::new()) };
}

/// Does `work` of a store, whose stacks these are.
pub(crate) async fn on<F: Future>(stacks: Arc<StoreStacks>, work: F) -> F::Output {
    let mut work = std::pin::pin!(work);
    std::future::poll_fn(move |cx| {
        let _working = Working(HERE.replace(Some(Arc::clone(&stacks))));
        work.as_mut().poll(cx)
    })
    .await
}

/// Whoever worked on this thread before; put back at the end.
struct Working(Option<Arc<StoreStacks>>);

impl Drop for Working {
    fn drop(&mut self) {
        if let Some(worked) = HERE.replace(self.0.take()) {
            WORKED.with_borrow_mut(|list| list.push(worked));
        }
    }
}

/// The turn in progress on this thread has taken `ns`, nanoseconds.
///
/// # Errors
/// [`OverLimit`]: the module that had it is to end.
pub(crate) fn turn_over(ns: u64) -> Result<(), OverLimit> {
    WORKED.with_borrow_mut(|list| list.drain(..).try_for_each(|stacks| stacks.ran(ns)))
}

/// Makes the stacks of all stores of an engine.
#[derive(Debug)]
pub(crate) struct StackMaker {
    /// What a guest may use of each, bytes.
    guest_bytes: usize,
    /// Its calls are not on these but on the interpreter's own, one for each of these.
    interpreted: bool,
}

impl StackMaker {
    pub(crate) fn new(guest_bytes: usize, interpreted: bool) -> Self {
        Self { guest_bytes, interpreted }
    }

    fn make(&self, bytes: usize) -> wasmtime::Result<Stack> {
        let mapping = Arc::new(Mapping::new(bytes).map_err(wasmtime::Error::new)?);
        let owner = HERE.with_borrow(Clone::clone);
        if let Some(owner) = &owner {
            let unseen = self.interpreted || !*MEASURABLE;
            // The others first: they do not grow while this one is used.
            let counted = owner.look().and_then(|()| {
                owner.add(Arc::clone(&mapping), if unseen { self.guest_bytes } else { 0 })
            });
            counted.map_err(|over| wasmtime::Error::new(OutOfMemory(over)))?;
        }
        Ok(Stack { mapping, owner })
    }
}

// SAFETY: a stack is a mapping of its own, of whole pages, zero at first, with a page below that nobody may touch.
unsafe impl StackCreator for StackMaker {
    fn new_stack(&self, bytes: usize, _zeroed: bool) -> wasmtime::Result<Box<dyn StackMemory>> {
        Ok(Box::new(self.make(bytes)?))
    }
}

/// What wasmtime holds of a stack.
struct Stack {
    mapping: Arc<Mapping>,
    owner: Option<Arc<StoreStacks>>,
}

impl Drop for Stack {
    fn drop(&mut self) {
        if let Some(owner) = &self.owner {
            owner.remove(&self.mapping);
        }
    }
}

// SAFETY: as the mapping's own; see there.
unsafe impl StackMemory for Stack {
    fn top(&self) -> *mut u8 {
        self.mapping.at(self.mapping.bytes())
    }

    fn range(&self) -> Range<usize> {
        self.mapping.at(0) as usize..self.top() as usize
    }

    fn guard_range(&self) -> Range<*mut u8> {
        self.mapping.base.cast()..self.mapping.at(0)
    }
}

/// Pages from the kernel: a guard, and a stack above it.
#[derive(Debug)]
struct Mapping {
    base: *mut c_void,
    /// With the guard.
    len: usize,
}

// SAFETY: it is an address range that belongs to this value alone; nothing in here reads or writes what lies there.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(bytes: usize) -> io::Result<Self> {
        let page = *PAGE_BYTES;
        let bytes = bytes.max(page).checked_next_multiple_of(page);
        let len =
            bytes.and_then(|bytes| bytes.checked_add(page)).ok_or(rustix::io::Errno::NOMEM)?;
        // A stack in one huge page would be all in use from its first byte: such mappings get none.
        let flags = MapFlags::PRIVATE | MapFlags::STACK;
        // SAFETY: a new mapping, wherever the kernel has room.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::empty(), flags) }?;
        let mapping = Self { base, len };
        let access = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: it lies within the mapping, which nobody else knows yet.
        unsafe { mprotect(mapping.at(0).cast(), mapping.bytes(), access) }?;
        Ok(mapping)
    }

    /// Bytes of the stack.
    fn bytes(&self) -> usize {
        self.len - *PAGE_BYTES
    }

    /// The address `offset` bytes above the stack's lowest.
    fn at(&self, offset: usize) -> *mut u8 {
        self.base.cast::<u8>().wrapping_add(*PAGE_BYTES + offset)
    }

    /// How much of it, from its top down, was used, when `known` was at least.
    fn touched(&self, known: usize) -> usize {
        let page = *PAGE_BYTES;
        let below = self.bytes().saturating_sub(known) / page * page;
        // Frames touch each of their pages, so whoever has gone further down has touched the next one.
        if below == 0 || self.lowest(below - page..below).is_none() {
            return known;
        }
        self.lowest(0..below).map_or(known, |lowest| self.bytes() - lowest)
    }

    /// The lowest page in memory of those in a range of offsets.
    fn lowest(&self, range: Range<usize>) -> Option<usize> {
        let page = *PAGE_BYTES;
        let mut here = [0_u8; PAGES];
        range.clone().step_by(PAGES * page).find_map(|from| {
            let count = ((range.end - from) / page).min(PAGES);
            // SAFETY: the pages are this mapping's, and there is a place for each.
            let failed = unsafe {
                libc::mincore(self.at(from).cast(), count * page, here.as_mut_ptr().cast()) != 0
            };
            if failed {
                return Some(from);
            }
            here[..count].iter().position(|page| page & 1 == 1).map(|at| from + at * page)
        })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it is ours, and its stack is gone.
        let unmapped = unsafe { munmap(self.base, self.len) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

static PAGE_BYTES: LazyLock<usize> = LazyLock::new(|| {
    // SAFETY: asks for a constant.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(64 << 10).max(4 << 10)
});

/// Whether the kernel tells pages that were touched from those that were not.
static MEASURABLE: LazyLock<bool> = LazyLock::new(|| {
    let Ok(mapping) = Mapping::new(4 * *PAGE_BYTES) else { return false };
    let untouched = mapping.lowest(0..mapping.bytes()).is_none();
    // SAFETY: a byte of the mapping, which nobody else knows.
    unsafe { mapping.at(*PAGE_BYTES).write_volatile(1) };
    untouched && mapping.lowest(0..mapping.bytes()) == Some(*PAGE_BYTES)
});

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::runtime::ledger::Ledger;

    const SIZE: usize = 1 << 20;

    fn touch(stack: &Stack, depth: usize) {
        // SAFETY: within the stack, which is nobody else's.
        unsafe { stack.top().sub(depth).write_volatile(1) };
    }

    /// Frames touch each page on their way.
    fn go_down(stack: &Stack, depth: usize) {
        for at in (*PAGE_BYTES..=depth).step_by(*PAGE_BYTES) {
            touch(stack, at);
        }
    }

    async fn make(stacks: &Arc<StoreStacks>, maker: &StackMaker) -> wasmtime::Result<Stack> {
        on(Arc::clone(stacks), async { maker.make(SIZE) }).await
    }

    #[tokio::test]
    async fn pages_are_charged_as_they_are_touched_and_given_back_with_the_stack() {
        if !*MEASURABLE {
            return;
        }
        let ledger = Arc::new(Ledger::new(Some(800 << 10), None));
        let stacks = StoreStacks::new(Arc::clone(&ledger));
        let maker = StackMaker::new(512 << 10, false);
        let kib = || ledger.used() >> 10;
        let one = make(&stacks, &maker).await.unwrap();
        assert_eq!(kib(), 64);
        go_down(&one, 48 << 10);
        stacks.look().unwrap();
        assert_eq!(kib(), 64, "less than what counts anyway");
        go_down(&one, 320 << 10);
        stacks.look().unwrap();
        assert_eq!(kib(), 320);
        // Not looked at before the next is made.
        go_down(&one, 512 << 10);
        let other = make(&stacks, &maker).await.unwrap();
        assert_eq!(kib(), 576);
        go_down(&other, 768 << 10);
        let over = stacks.look().unwrap_err();
        assert_eq!((over.asked >> 10, kib()), (704, 576));
        drop(one);
        stacks.look().unwrap();
        assert_eq!(kib(), 768);
        assert!(make(&stacks, &maker).await.is_err_and(|error| error.is::<OutOfMemory>()));
        drop(other);
        assert_eq!(ledger.used(), 0);
    }

    #[tokio::test]
    async fn a_look_follows_turns_that_took_some_time_together() {
        if !*MEASURABLE {
            return;
        }
        let ledger = Arc::new(Ledger::new(None, None));
        let stacks = StoreStacks::new(Arc::clone(&ledger));
        let stack = make(&stacks, &StackMaker::new(0, false)).await.unwrap();
        // That was a turn as well.
        turn_over(0).unwrap();
        go_down(&stack, 128 << 10);
        on(Arc::clone(&stacks), async {}).await;
        turn_over(LOOK_NS / 2).unwrap();
        assert_eq!(ledger.used() >> 10, 64);
        // Another's turn.
        turn_over(LOOK_NS).unwrap();
        assert_eq!(ledger.used() >> 10, 64);
        on(Arc::clone(&stacks), async {}).await;
        turn_over(LOOK_NS / 2).unwrap();
        assert_eq!(ledger.used() >> 10, 128);
    }

    #[tokio::test]
    async fn what_cannot_be_measured_is_charged_whole() {
        let ledger = Arc::new(Ledger::new(None, None));
        let stacks = StoreStacks::new(Arc::clone(&ledger));
        let stack = make(&stacks, &StackMaker::new(512 << 10, true)).await.unwrap();
        assert_eq!(ledger.used() >> 10, 576);
        drop(stack);
        assert_eq!(ledger.used(), 0);
    }

    #[test]
    fn a_stack_of_nobody_is_only_a_stack() {
        let stack = StackMaker::new(0, false).make(1).unwrap();
        assert_eq!(stack.range().len(), *PAGE_BYTES);
        assert_eq!(stack.guard_range().end, stack.range().start as *mut u8);
        touch(&stack, 1);
        touch(&stack, *PAGE_BYTES);
    }
}
