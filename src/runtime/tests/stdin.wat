;; Reads its standard input as a program of one thread does that must not wait: without waiting, and with `poll_oneoff` when there is nothing. Prints
;; "w" when it begins to wait, and what it reads; ends with 0 at the end of the input, with 1 and so on at the first call that
;; answers otherwise than it should.
(module
  (import "wasi_snapshot_preview1" "fd_fdstat_get" (func $stat (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_fdstat_set_flags" (func $set (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  ;; 16: one buffer of 64 bytes at 256; 24: one of what was read there; 32: one of one byte, "w"
  (data (i32.const 16) "\00\01\00\00\40\00\00\00\00\01\00\00\00\00\00\00\28\00\00\00\01\00\00\00w")
  ;; 64: a number; 80: fdstat; 112: a subscription to reading from 0; 176: an event
  (data (i32.const 120) "\01")

  (func $must (param $holds i32) (param $code i32)
    (if (i32.eqz (local.get $holds)) (then (call $exit (local.get $code)))))
  (func $flags (param $fd i32) (result i32)
    (call $must (i32.eqz (call $stat (local.get $fd) (i32.const 80))) (i32.const 1))
    (i32.load16_u (i32.const 82)))

  (func (export "_start") (local $errno i32)
    (call $must (i32.eqz (call $flags (i32.const 0))) (i32.const 2))
    (call $must (i32.eqz (call $set (i32.const 0) (i32.const 4))) (i32.const 3))
    (call $must (i32.eq (call $flags (i32.const 0)) (i32.const 4)) (i32.const 4))
    (call $must (i32.eqz (call $set (i32.const 1) (i32.const 4))) (i32.const 5))
    (call $must (i32.eq (call $flags (i32.const 1)) (i32.const 4)) (i32.const 6))
    (loop $again
      (local.set $errno
        (call $read (i32.const 0) (i32.const 16) (i32.const 1) (i32.const 64)))
      (if (i32.eq (local.get $errno) (i32.const 6))
        (then
          (drop (call $write (i32.const 1) (i32.const 32) (i32.const 1) (i32.const 64)))
          (call $must
            (i32.eqz (call $poll (i32.const 112) (i32.const 176) (i32.const 1) (i32.const 64)))
            (i32.const 7))
          (call $must (i32.eq (i32.load (i32.const 64)) (i32.const 1)) (i32.const 8))
          (br $again)))
      (call $must (i32.eqz (local.get $errno)) (i32.const 9))
      (if (i32.eqz (i32.load (i32.const 64))) (then (call $exit (i32.const 0))))
      (i32.store (i32.const 28) (i32.load (i32.const 64)))
      (drop (call $write (i32.const 1) (i32.const 24) (i32.const 1) (i32.const 64)))
      (br $again))))
