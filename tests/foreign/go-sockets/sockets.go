package main

// Sockets of one's own on wasip1: the functions that WasmEdge has added to WASI 0.1 and libraries for Go import. Once a socket stands, Go's
// own net package has it: net.FileConn and net.FileListener take its descriptor, and the runtime waits for it beside everything else.

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"
	"unsafe"
)

const (
	inet4, inet6   = 1, 2
	stream         = 2
	socketLevel    = 0
	reuseAddress   = 0
	pendingError   = 2
	passive        = 1
	lengthOfOption = 4
)

//go:wasmimport wasi_snapshot_preview1 sock_open
func sockOpen(family, kind int32, fd unsafe.Pointer) syscall.Errno

//go:wasmimport wasi_snapshot_preview1 sock_bind
func sockBind(fd int32, address unsafe.Pointer, port uint32) syscall.Errno

//go:wasmimport wasi_snapshot_preview1 sock_listen
func sockListen(fd, backlog int32) syscall.Errno

//go:wasmimport wasi_snapshot_preview1 sock_connect
func sockConnect(fd int32, address unsafe.Pointer, port uint32) syscall.Errno

//go:wasmimport wasi_snapshot_preview1 sock_getsockopt
func sockGetOption(fd int32, level, name uint32, value unsafe.Pointer, size uint32) syscall.Errno

//go:wasmimport wasi_snapshot_preview1 sock_setsockopt
func sockSetOption(fd int32, level, name uint32, value unsafe.Pointer, size uint32) syscall.Errno

//go:wasmimport wasi_snapshot_preview1 sock_getlocaladdr
func sockLocal(fd int32, address, port unsafe.Pointer) syscall.Errno

//go:wasmimport wasi_snapshot_preview1 sock_getpeeraddr
func sockPeer(fd int32, address, port unsafe.Pointer) syscall.Errno

//go:wasmimport wasi_snapshot_preview1 sock_getaddrinfo
func sockLookUp(name unsafe.Pointer, nameLen uint32, service unsafe.Pointer, serviceLen uint32, hints, results unsafe.Pointer, most uint32,
	count unsafe.Pointer) syscall.Errno

// at is where something lies in memory, as the host is told it.
func at(p unsafe.Pointer) uint32 { return uint32(uintptr(p)) }

func failed(what string, errno syscall.Errno) error {
	if errno == 0 {
		return nil
	}
	return os.NewSyscallError(what, errno)
}

// where is an address as bind and connect take it.
type where struct {
	bytes, size uint32
	ip          [128]byte
}

func newWhere(ip net.IP) (*where, int32) {
	w, family := new(where), int32(inet4)
	w.bytes = at(unsafe.Pointer(&w.ip))
	if four := ip.To4(); four != nil {
		w.size = uint32(copy(w.ip[:], four))
	} else {
		family, w.size = inet6, uint32(copy(w.ip[:], ip.To16()))
	}
	return w, family
}

// open makes a socket that does not wait.
func open(family int32) (int32, error) {
	fd := new(int32)
	if err := failed("sock_open", sockOpen(family, stream, unsafe.Pointer(fd))); err != nil {
		return -1, err
	}
	if err := syscall.SetNonblock(int(*fd), true); err != nil {
		syscall.Close(int(*fd))
		return -1, err
	}
	return *fd, nil
}

// listen is net.Listen for TCP.
func listen(address string) (net.Listener, error) {
	ip, port, err := resolve(address, passive)
	if err != nil {
		return nil, err
	}
	place, family := newWhere(ip)
	fd, err := open(family)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), address)
	defer file.Close()
	yes := new(int32)
	*yes = 1
	err = failed("sock_setsockopt", sockSetOption(fd, socketLevel, reuseAddress, unsafe.Pointer(yes), lengthOfOption))
	if err == nil {
		err = failed("sock_bind", sockBind(fd, unsafe.Pointer(place), port))
	}
	if err == nil {
		err = failed("sock_listen", sockListen(fd, 64))
	}
	runtime.KeepAlive(place)
	if err != nil {
		return nil, err
	}
	return net.FileListener(file)
}

// dial is net.Dial for TCP. Others go on while it waits.
func dial(_ context.Context, _, address string) (net.Conn, error) {
	ip, port, err := resolve(address, 0)
	if err != nil {
		return nil, err
	}
	place, family := newWhere(ip)
	fd, err := open(family)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), address)
	defer file.Close()
	errno := sockConnect(fd, unsafe.Pointer(place), port)
	runtime.KeepAlive(place)
	if errno == syscall.EINPROGRESS {
		if errno, err = await(file); err != nil {
			return nil, err
		}
	}
	if err := failed("sock_connect "+address, errno); err != nil {
		return nil, err
	}
	return net.FileConn(file)
}

// await waits until a connection stands or is refused.
func await(file *os.File) (outcome syscall.Errno, err error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return 0, err
	}
	err = raw.Write(func(fd uintptr) bool {
		value := new(int32)
		outcome = sockGetOption(int32(fd), socketLevel, pendingError, unsafe.Pointer(value), lengthOfOption)
		if outcome != 0 {
			return true
		}
		outcome = syscall.Errno(*value)
		if outcome != 0 {
			return outcome != syscall.EINPROGRESS
		}
		// Woken for nothing, or connected: the other end is known then.
		_, known := end(int32(fd), sockPeer)
		return known == nil
	})
	return outcome, err
}

// end is one of a socket's two addresses.
func end(fd int32, ask func(int32, unsafe.Pointer, unsafe.Pointer) syscall.Errno) (string, error) {
	place, _ := newWhere(net.IPv4zero)
	place.size = uint32(len(place.ip))
	port := new(uint32)
	if err := failed("address of a socket", ask(fd, unsafe.Pointer(place), unsafe.Pointer(port))); err != nil {
		return "", err
	}
	family, ip := binary.LittleEndian.Uint16(place.ip[:]), net.IP(place.ip[2:6])
	if family == inet6 {
		ip = net.IP(place.ip[2:18])
	}
	return net.JoinHostPort(ip.String(), fmt.Sprint(*port)), nil
}

// answer is one result of a look-up, with room for everything that it points to.
type answer struct {
	flags         uint16
	family, kind  uint8
	protocol      uint32
	size, address uint32
	name, nameLen uint32
	next          uint32
	shortFamily   uint32
	dataLen, data uint32
	_             uint32
	bytes         [26]byte
	_             [30]byte
}

// resolve finds the first address of HOST:PORT.
func resolve(address string, flags uint16) (net.IP, uint32, error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, 0, err
	}
	answers := make([]answer, 4)
	for i := range answers {
		a := &answers[i]
		a.address = at(unsafe.Pointer(&a.shortFamily))
		a.size = 16
		a.data, a.dataLen = at(unsafe.Pointer(&a.bytes)), uint32(len(a.bytes))
		// As the library does that programs have this from: no list at all. One answer is enough.
		a.next = at(unsafe.Pointer(a))
	}
	hints := &answer{flags: flags, kind: stream}
	first, count := new(uint32), new(uint32)
	*first = at(unsafe.Pointer(&answers[0]))
	// Ended by a zero, as C's are.
	name, port := append([]byte(host), 0), append([]byte(service), 0)
	errno := sockLookUp(unsafe.Pointer(&name[0]), uint32(len(name)), unsafe.Pointer(&port[0]), uint32(len(port)), unsafe.Pointer(hints),
		unsafe.Pointer(first), uint32(len(answers)), unsafe.Pointer(count))
	runtime.KeepAlive(answers)
	if err := failed("sock_getaddrinfo "+address, errno); err != nil {
		return nil, 0, err
	}
	if *count == 0 {
		return nil, 0, fmt.Errorf("%s: no address", address)
	}
	found := &answers[0]
	ip := net.IP(found.bytes[2:6])
	if found.shortFamily == inet6 {
		ip = net.IP(found.bytes[2:18])
	}
	return ip, uint32(binary.BigEndian.Uint16(found.bytes[:2])), nil
}
