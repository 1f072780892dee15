;; counter: written by hand. Counts on standard output, one line a second, for ever.
;;
;; kind: wasip1 core module, well under a kilobyte. args, env: none. Never ends by itself; exit code 1 when standard
;; output or the clock fails.
;; Shows: that a module needs no compiler's run-time library, and that waiting (`poll_oneoff`) costs no CPU.
(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff"
    (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))

  (memory (export "memory") 1)

  ;; 0..8: one iovec. 8..12: bytes written, events seen. 16..64: one subscription. 64..96: one event.
  ;; 128..160: the text; its last byte, the line end, stands at 159.
  (data (i32.const 32) "\01\00\00\00")                       ;; clock id: monotonic
  (data (i32.const 40) "\00\ca\9a\3b\00\00\00\00")           ;; timeout: 1,000,000,000 ns, relative
  (data (i32.const 159) "\0a")

  ;; Writes `count` in decimal before the line end and prints from its first digit on.
  (func $print (param $count i64)
    (local $at i32)
    (local.set $at (i32.const 159))
    (loop $digit
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (i32.store8 (local.get $at)
        (i32.add (i32.const 48) (i32.wrap_i64 (i64.rem_u (local.get $count) (i64.const 10)))))
      (local.set $count (i64.div_u (local.get $count) (i64.const 10)))
      (br_if $digit (i64.ne (local.get $count) (i64.const 0))))
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (i32.sub (i32.const 160) (local.get $at)))
    (call $check (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))

  (func $check (param $errno i32)
    (if (local.get $errno) (then (call $proc_exit (i32.const 1)))))

  (func (export "_start")
    (local $count i64)
    (loop $second
      (local.set $count (i64.add (local.get $count) (i64.const 1)))
      (call $print (local.get $count))
      (call $check
        (call $poll_oneoff (i32.const 16) (i32.const 64) (i32.const 1) (i32.const 8)))
      (br $second))))
