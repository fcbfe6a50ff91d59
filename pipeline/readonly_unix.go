//go:build unix

package pipeline

import (
	"errors"
	"syscall"
)

// isReadOnly says whether a write failed because the file system takes none.
func isReadOnly(err error) bool { return errors.Is(err, syscall.EROFS) }
