;; spinstart: spins in its start function, that is, while it is still being instantiated.
;;
;; kind: core module. Never ends. Shows that even a module that never reaches its entry point holds nobody up and can
;; be killed.
(module
  (memory (export "memory") 1)
  (func $forever (loop $again (br $again)))
  (start $forever)
  (func (export "_start")))
