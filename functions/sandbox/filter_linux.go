package sandbox

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// refused are system calls no function needs and kernels have had most of their
// holes in: what changes the machine, its file systems, namespaces and keys,
// looks into other processes, or runs programs in the kernel.
var refused = []uintptr{
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_SETNS, unix.SYS_UNSHARE,
	unix.SYS_FSOPEN, unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_FSCONFIG, unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_TREE, unix.SYS_MOUNT_SETATTR,
	unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_NAME_TO_HANDLE_AT,
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_KCMP, unix.SYS_PIDFD_GETFD,
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_IO_URING_SETUP,
	unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY,
	unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD, unix.SYS_REBOOT,
	unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_ACCT, unix.SYS_QUOTACTL, unix.SYS_SYSLOG,
	unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_CLOCK_ADJTIME, unix.SYS_ADJTIMEX,
}

// families are sockets that no network namespace holds back, or that open the
// kernel's cryptography.
var families = []uint32{unix.AF_VSOCK, unix.AF_ALG, unix.AF_PACKET}

const newNamespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// filter puts the list in force for this thread and all it becomes.
func filter() error {
	arch, ok := map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}[runtime.GOARCH]
	if !ok {
		return unix.ENOTSUP
	}
	prog := assemble(arch)
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	_, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&fprog)))
	runtime.KeepAlive(prog)
	if e != 0 {
		return e
	}
	return nil
}

// assemble writes the filter for classic BPF. A call's number is at 0 of what it
// reads, the architecture at 4, the arguments from 16 on, 8 bytes each.
// Source: seccomp(2).
func assemble(arch uint32) []unix.SockFilter {
	const (
		load = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		eq   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		ge   = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
		set  = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
		ret  = unix.BPF_RET | unix.BPF_K

		allow = unix.SECCOMP_RET_ALLOW
		deny  = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
		lacks = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	)
	var p []unix.SockFilter
	add := func(code uint16, k uint32, yes, no uint8) {
		p = append(p, unix.SockFilter{Code: code, Jt: yes, Jf: no, K: k})
	}
	add(load, 4, 0, 0)
	add(eq, arch, 1, 0)
	add(ret, lacks, 0, 0) // the calls of another architecture have other numbers
	add(load, 0, 0, 0)
	add(ge, 0x40000000, 0, 1) // x32 on amd64
	add(ret, lacks, 0, 0)
	for _, nr := range refused {
		add(eq, uint32(nr), 0, 1)
		add(ret, deny, 0, 0)
	}
	// clone3 has its flags in memory, where a filter cannot look; without it C
	// libraries use clone.
	add(eq, unix.SYS_CLONE3, 0, 1)
	add(ret, lacks, 0, 0)
	add(eq, unix.SYS_CLONE, 0, 4)
	add(load, 16, 0, 0)
	add(set, newNamespaces, 0, 1)
	add(ret, deny, 0, 0)
	add(ret, allow, 0, 0)
	add(eq, unix.SYS_SOCKET, 0, uint8(2*len(families)+1))
	add(load, 16, 0, 0)
	for _, f := range families {
		add(eq, f, 0, 1)
		add(ret, deny, 0, 0)
	}
	add(ret, allow, 0, 0)
	return p
}
