//go:build !unix

package pipeline

// isReadOnly says whether a write failed because the file system takes none, which here looks like a lack of permission.
func isReadOnly(error) bool { return false }
