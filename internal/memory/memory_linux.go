package memory

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// forgetProgram makes the pages of the program's file leave this process's
// memory. They are only read: what is needed again comes back from the file.
func forgetProgram() {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer maps.Close()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		// 00400000-01800000 r-xp 00000000 08:01 12345   /usr/local/bin/agent
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 || fields[1][1] == 'w' || !strings.HasSuffix(lines.Text(), " "+program) {
			continue
		}
		var from, to uintptr
		if _, err := fmt.Sscanf(fields[0], "%x-%x", &from, &to); err == nil && from < to {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED) // else they stay
		}
	}
}
